"""What leaves a run: one folder with weights and everything needed to use them.

model.safetensors     weights, without optimizer
config.json           kind, classes, encoder, licences of the training data, metrics, SHA-256 of the weights
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from usfm.config import Config
from usfm.data.cleaning.config import CleanConfig
from usfm.errors import CheckpointError, ConfigError
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.heads import TaskModel

__all__ = ["BundleSpec", "load_bundle", "save_bundle"]

WEIGHTS = "model.safetensors"
SPEC = "config.json"


class BundleSpec(Config):
    """What a bundle says of itself.

    Attributes:
        kind: "embedding" is an encoder alone.
        name: of the task, part of the serving URL's answer, e.g. "fetal_head".
        classes: names in the order of logits; for segmentation the first is the background. Empty for embedding.
        encoder: network.
        canvas_px: longest side of the images that it was trained on; larger ones are shrunk to it first.
        stored_px: longest side that ingest stored, where it was smaller than the canvas; None = not known.
        clean: how the images that it was trained on were cleaned; None = not at all.
        version: first 12 hex digits of the weights' SHA-256; "" before saving.
        licences: licences of the training data, which bind the model's users.
        trained_on: items by source.
        metrics: of the run that made it, on held-out data.
    """

    kind: Literal["classification", "segmentation", "embedding"]
    name: str
    classes: list[str] = []
    encoder: EncoderConfig
    canvas_px: int = 256
    stored_px: int | None = None
    clean: CleanConfig | None = None
    version: str = ""
    licences: list[str] = []
    trained_on: dict[str, int] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)


def save_bundle(folder: Path, model: nn.Module, spec: BundleSpec) -> BundleSpec:
    """Write a bundle; returns the spec with its version filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    spec = spec.model_copy(update={"version": digest[:12]})
    (folder / SPEC).write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return spec


def load_bundle(folder: Path, device: torch.device | None = None) -> tuple[nn.Module, BundleSpec]:
    """Load a bundle for inference: `Encoder` for "embedding", else `TaskModel`, in eval mode.

    Raises:
        CheckpointError: no bundle there, weights do not match the spec or its version.
    """
    try:
        spec = BundleSpec.build(json.loads((folder / SPEC).read_text(encoding="utf-8")))
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{folder} is not a model bundle: {error}") from None
    if digest[:12] != spec.version:
        raise CheckpointError(f"{folder / WEIGHTS} is not the file that {SPEC} describes (version {spec.version})")
    if spec.kind == "embedding":
        model: nn.Module = Encoder(spec.encoder)
    else:
        model = TaskModel(spec.encoder, spec.kind, len(spec.classes))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit the spec: {error}") from None
    return model.to(device or "cpu").eval(), spec
