"""What leaves a run: one folder with weights and everything needed to use them.

model.safetensors     weights, without optimizer. An encoder alone is written in timm's names, its mask token in the
                      header; a task's model in ours
config.json           kind, classes, network, licences of the training data, metrics, SHA-256 of the weights; for an
                      encoder they are under "usfm", beside what `timm.create_model("local-dir:FOLDER")` reads
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import nn

from usfm.config import Config
from usfm.data.cleaning.config import CleanConfig
from usfm.errors import CheckpointError, ConfigError
from usfm.file_hash import file_sha256
from usfm.kinds import TaskKind, output_count
from usfm.models.encoder import SIZES, Encoder, EncoderConfig
from usfm.models.heads.table import HeadConfig, default_head
from usfm.models.task_model import USFM, build_model
from usfm.models.weights.files import read_metadata
from usfm.models.windows import WindowConfig

__all__ = [
    "BundleSpec",
    "bundle_weights",
    "discard_bundle",
    "is_bundle",
    "load_bundle",
    "read_bundle_spec",
    "save_bundle",
    "timm_config",
]

WEIGHTS = "model.safetensors"
SPEC = "config.json"
OURS = "usfm"
OWN_NAMES = "beit."  # in front of every name of the encoder but the mask token's
MASK_TOKEN = "mask_token"


def _default_head(before: Mapping[str, Any]) -> str:
    """For bundles from before there was a choice: the default is what they have."""
    kind = before.get("kind", "embedding")
    return "" if kind == "embedding" or before.get("network") != USFM else default_head(kind)


def _default_side(before: Mapping[str, Any]) -> int:
    """The encoder's side; a baseline has to state its own."""
    encoder = before.get("encoder")
    return encoder.img_px if encoder is not None else 0


class BundleSpec(Config):
    """What a bundle says of itself.

    Attributes:
        kind: "embedding" is an encoder alone.
        name: of the task, part of the serving URL's answer, e.g. "fetal_head".
        classes: names in the order of logits; for segmentation the first is the background. Empty for embedding,
            regression and enhancement.
        encoder: shape of the encoder; None for a baseline, which has none.
        network: "usfm" or a baseline's name.
        head: its name in `usfm.models.heads.table.HEADS`; "" for embedding and for baselines.
        img_px: side of the square input.
        unit: of a regression's answer, e.g. "mm".
        target: what a regression answers, e.g. "HC_mm" or "mask_perimeter".
        inference: how whole images are shown to a network that answers for every pixel.
        scales_with_size: the network answers a length over the view's size, spacing * sqrt(height * width).
        canvas_px: longest side of the images that it was trained on; larger ones are shrunk to it first.
        stored_px: longest side that ingest stored, where it was smaller than the canvas; None = not known.
        clean: how the images that it was trained on were cleaned; None = not at all.
        version: first 12 hex digits of the weights' SHA-256; "" before saving.
        licences: licences of the training data, which bind the model's users.
        trained_on: items by source.
        labels_behind: of an encoder alone, whether its weights learnt from labels or began from weights that did;
            None = not known. A bundle of another kind always did.
        labels_apart_on: of an encoder alone, fingerprint of the shards whose test split shares no patient with
            these labels; None = there are no such shards, or no labels.
        metrics: of the run that made it, on held-out data.
    """

    kind: TaskKind | Literal["embedding"]
    name: str
    classes: list[str] = []
    encoder: EncoderConfig | None = None
    network: str = USFM
    head: str = Field(default_factory=_default_head)
    img_px: int = Field(default_factory=_default_side, ge=1)
    unit: str = ""
    target: str = ""
    scales_with_size: bool = False
    inference: WindowConfig = WindowConfig()
    canvas_px: int = 256
    stored_px: int | None = None
    clean: CleanConfig | None = None
    version: str = ""
    licences: list[str] = []
    trained_on: dict[str, int] = Field(default_factory=dict)
    labels_behind: bool | None = None
    labels_apart_on: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _network_is_whole(self) -> "BundleSpec":
        if self.network == USFM and self.encoder is None:
            raise ValueError("network usfm needs `encoder`, the shape of it")
        if self.encoder is not None and self.encoder.img_px != self.img_px:
            raise ValueError(f"img_px is {self.img_px}, but that of the encoder is {self.encoder.img_px}")
        return self

    def need_encoder(self) -> EncoderConfig:
        """The encoder's shape.

        Raises:
            CheckpointError: a baseline has no encoder.
        """
        if self.encoder is None:
            raise CheckpointError(
                f"the bundle {self.name!r} is a {self.network}, which has no encoder; expected a model of ours"
            )
        return self.encoder


def save_bundle(folder: Path, model: nn.Module, spec: BundleSpec) -> BundleSpec:
    """Write a bundle; returns the spec with its version filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"format": "pt"}
    if spec.kind == "embedding":
        if (token := weights.pop(MASK_TOKEN, None)) is not None:  # timm refuses a tensor that it does not know
            # alone in the header: safetensors writes its entries in any order, and the same model is the same file
            header = {MASK_TOKEN: base64.b64encode(token.numpy().astype("<f4").tobytes()).decode()}
        weights = {name.removeprefix(OWN_NAMES): tensor for name, tensor in weights.items()}
    save_file(weights, folder / WEIGHTS, metadata=header)
    digest = file_sha256(folder / WEIGHTS)
    spec = spec.model_copy(update={"version": digest[:12]})
    document = spec.model_dump(mode="json")
    if spec.kind == "embedding":
        document = {**timm_config(spec.need_encoder()), OURS: document}
    (folder / SPEC).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return spec


def timm_config(config: EncoderConfig) -> dict[str, Any]:
    """What timm reads from `config.json`: the architecture, its arguments, how to normalise.

    Empty for an encoder without a final norm: timm's `Beit` then has a norm behind the pooling, ours has not.
    """
    if not config.final_norm:
        return {}
    width, depth, heads = SIZES[config.size]
    grey = config.channels == 1
    return {
        "architecture": "beit_base_patch16_224",  # timm's name for the family; the arguments say the rest
        "num_classes": 0,
        "num_features": width,
        "pretrained_cfg": {
            "input_size": [config.channels, config.img_px, config.img_px],
            "mean": [config.mean] if grey else list(config.channel_mean),
            "std": [config.std] if grey else list(config.channel_std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "fixed_input_size": True,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "model_args": {
            "img_size": config.img_px,
            "patch_size": config.patch_px,
            "in_chans": config.channels,
            "num_classes": 0,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "init_values": config.layer_scale or 0.0,
            "use_abs_pos_emb": config.positions == "absolute",
            "use_rel_pos_bias": config.positions == "block_bias",
            "use_shared_rel_pos_bias": config.positions == "shared_bias",
            "use_fc_norm": False,
        },
    }


def read_bundle_spec(folder: Path) -> BundleSpec:
    """What a bundle says of itself, without loading its weights.

    Raises:
        CheckpointError: there is no bundle.
    """
    try:
        document = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        return BundleSpec.build(document.get(OURS, document))
    except FileNotFoundError:
        if (folder / "evaluation.json").is_file():
            raise CheckpointError(
                f"{folder} has scores but no weights: its sweep kept those of the best trial alone; the best heads "
                "are in SWEEP/best, and keep=all keeps every one"
            ) from None
        raise CheckpointError(
            f"no model bundle at {folder} (no {SPEC} there); `usfm finetune` leaves one in RUN/best, `usfm export` "
            "writes one from a pre-training run"
        ) from None
    except (OSError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder} is not a model bundle: {error}") from None


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, and not, say, a model of timm's hub, which has files of the same names."""
    try:
        read_bundle_spec(folder)
    except CheckpointError:
        return False
    return True


def discard_bundle(folder: Path) -> None:
    """Delete a bundle, if there is one; what else lies in its folder, such as its scores, stays."""
    for name in (SPEC, WEIGHTS):  # in this order: half a bundle is none
        (folder / name).unlink(missing_ok=True)


def bundle_weights(folder: Path) -> dict[str, torch.Tensor]:
    """A bundle's tensors under our names, mask token and all.

    Raises:
        CheckpointError: the file is missing or damaged, or is not the one that the spec describes.
    """
    spec, path = read_bundle_spec(folder), folder / WEIGHTS
    try:
        digest = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{folder} is not a model bundle: {error}") from None
    if digest[:12] != spec.version:
        raise CheckpointError(f"{path} is not the file that {SPEC} describes (version {spec.version})")
    weights: dict[str, torch.Tensor] = load_file(path)
    if spec.kind != "embedding" or any(name.startswith(OWN_NAMES) for name in weights):
        return weights
    weights = {OWN_NAMES + name: tensor for name, tensor in weights.items()}
    if (token := read_metadata(path).get(MASK_TOKEN)) is not None:
        values = np.frombuffer(base64.b64decode(token), dtype="<f4").copy()
        weights[MASK_TOKEN] = torch.from_numpy(values).reshape(1, 1, -1)
    return weights


def load_bundle(folder: Path, device: torch.device | None = None) -> tuple[nn.Module, BundleSpec]:
    """Load a bundle for inference: `Encoder` for "embedding", else a `TaskNetwork`, in eval mode.

    Raises:
        CheckpointError: no bundle there, weights do not match the spec or its version.
    """
    spec, weights = read_bundle_spec(folder), bundle_weights(folder)
    if spec.kind == "embedding":
        model: nn.Module = Encoder(spec.need_encoder())
    else:
        model = build_model(
            spec.network,
            spec.encoder,
            spec.kind,
            output_count(spec.kind, spec.classes),
            HeadConfig(name=spec.head or None),
            spec.img_px,
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit the spec: {error}") from None
    return model.to(device or "cpu").eval(), spec
