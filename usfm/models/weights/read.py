"""From a weight file to our encoder: every key translated or explained, the network inferred from the shapes."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.models.beit import gen_relative_position_index

from usfm.errors import CheckpointError
from usfm.file_hash import file_sha256
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights.files import read_tensors
from usfm.models.weights.grey import Normalisation, stated_normalisation
from usfm.models.weights.infer import infer_config
from usfm.models.weights.layouts import (
    LAYOUTS,
    PREFIXES,
    detect_layout,
    dropped_because,
    is_other_part,
    rename,
)
from usfm.models.weights.released import released_keys
from usfm.models.weights.report import Key, WeightsReport

__all__ = ["SourceWeights", "encoder_shapes", "explain_weights", "read_weights"]

MASK_TOKEN = "mask_token"


@dataclass(frozen=True)
class SourceWeights:
    """A weight file in our names, with the channels, image side and normalisation that it came with.

    Attributes:
        config: the network that the file is. Its mean and deviation are the layout's where those are known.
        state: by the keys of `Encoder(config).state_dict()`; whole only if the report explains every key.
        report: the fate of every key.
        stated: how its input was normalised, where timm's config.json beside the file says so.
    """

    config: EncoderConfig
    state: dict[str, torch.Tensor]
    report: WeightsReport
    stated: Normalisation | None = None


def read_weights(path: Path) -> SourceWeights:
    """Read a `.safetensors` file or a pickle of tensors in any known layout.

    Keys that nothing explains are in the report; call `report.require_explained()` before using the weights.

    Raises:
        CheckpointError: no such file, more than weights in it, or not a ViT of a size that is known.
    """
    tensors, beside = read_tensors(path)
    source = explain_weights(str(path), file_sha256(path), tensors, beside)
    stated, channels = stated_normalisation(path.parent), source.config.channels
    if stated and not len(stated.mean) == len(stated.std) == channels:
        raise CheckpointError(
            f"config.json beside {path} states mean {stated.mean} and std {stated.std}, and the model takes "
            f"{channels} channels; correct it"
        )
    return dataclasses.replace(source, stated=stated)


def explain_weights(
    source: str,
    sha256: str,
    tensors: Mapping[str, torch.Tensor],
    beside: Mapping[str, str] | None = None,
    config: EncoderConfig | None = None,
) -> SourceWeights:
    """Translate tensors to our names and explain every key.

    Args:
        source: named in the report and in errors.
        sha256: of the file.
        tensors: by the file's names.
        beside: other entries of the file -> why they are left out.
        config: the network where it is known; None = inferred from the shapes.

    Raises:
        CheckpointError: not a ViT of a size that is known.
    """
    prefix = _prefix(source, tensors)
    inner = {_unchunked(key.removeprefix(prefix)) for key in tensors if key.startswith(prefix)}
    layout = detect_layout(inner, tensors, released_keys())
    state: dict[str, torch.Tensor] = {}
    keys = []
    for key, tensor in tensors.items():
        if key.startswith(prefix) and not (prefix == "" and is_other_part(key)):
            entry, parts = _translate(key, _unchunked(key.removeprefix(prefix)), tensor, layout)
        else:
            entry, parts = _outside(key, tensor), {}
        if doubled := sorted(set(parts) & set(state)):
            entry, parts = dataclasses.replace(entry, fate="unexpected", note=f"a second {doubled[0]}"), {}
        state |= parts
        keys.append(entry)
    if config is None:
        config = infer_config(source, state, LAYOUTS[layout])
    elif MASK_TOKEN not in state:  # a task's model has dropped it
        config = config.model_copy(update={"mask_token": "none"})
    keys = [_check_index(entry, tensors[entry.name], config.grid) for entry in keys]
    keys += [Key(name, None, "dropped", reason) for name, reason in (beside or {}).items()]
    keys += _compare(state, encoder_shapes(config))
    return SourceWeights(config, state, WeightsReport(source, layout, sha256, keys))


def encoder_shapes(config: EncoderConfig) -> dict[str, torch.Size]:
    """Shapes of an encoder's state dict, without making its tensors."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Encoder(config).state_dict().items()}


def _prefix(source: str, tensors: Mapping[str, torch.Tensor]) -> str:
    for prefix in PREFIXES:
        if any(prefix + beit + "cls_token" in tensors for beit in ("", "beit.")):
            return prefix
    some = ", ".join(list(tensors)[:3])
    raise CheckpointError(
        f"{source} is not a ViT of a known layout: no cls_token among its {len(tensors)} keys (the first: {some}); "
        f"known layouts: {', '.join(layout.title for layout in LAYOUTS.values())}"
    )


def _unchunked(key: str) -> str:
    """DINOv2's training keeps blocks in chunks: blocks.CHUNK.BLOCK.rest."""
    return re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)


def _translate(name: str, key: str, tensor: torch.Tensor, layout: str) -> tuple[Key, dict[str, torch.Tensor]]:
    """The fate of one key of the encoder, and what it becomes."""
    shape = tuple(tensor.shape)
    if reason := dropped_because(key, layout):
        return Key(name, shape, "dropped", reason), {}
    if layout == "ours" and key.startswith("beit."):
        key = key.removeprefix("beit.")
    ours = rename(key)
    if ours is None:
        note = "register tokens: our encoder has none, and every attention sees them"
        return Key(name, shape, "unexpected", note if "register" in key else "no rule for this key"), {}
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        return Key(name, shape, "unexpected", f"holds NaN, infinity or integers ({tensor.dtype})"), {}
    note = ours if tensor.dtype == torch.float32 else f"{ours}, from {tensor.dtype}"
    tensor = tensor.float()
    if ours.endswith("attn.qkv.bias"):
        query, _, value = tensor.chunk(3)
        stem = ours.removesuffix("qkv.bias")
        return Key(name, shape, "loaded", f"{stem}q_bias and v_bias; the key third cancels in softmax"), {
            f"{stem}q_bias": query,
            f"{stem}v_bias": value,
        }
    if ours == MASK_TOKEN:
        tensor = tensor.reshape(1, 1, -1)  # DINOv2: (1, D)
    if ours == "beit.pos_embed" and round(tensor.shape[1] ** 0.5) ** 2 == tensor.shape[1]:
        tensor = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)  # patches alone have positions
        note += " with zeros for CLS"
    return Key(name, shape, "loaded", note), {ours: tensor}


def _outside(name: str, tensor: torch.Tensor) -> Key:
    """The fate of a key that does not belong to the encoder."""
    reason = is_other_part(name)
    if reason is None:
        return Key(name, tuple(tensor.shape), "unexpected", "beside the encoder, and no rule for it")
    return Key(name, tuple(tensor.shape), "dropped", reason)


def _check_index(entry: Key, tensor: torch.Tensor, grid: int) -> Key:
    """The saved index must be the one that is recomputed; another would mean another table."""
    if not entry.name.endswith("relative_position_index"):
        return entry
    if torch.equal(tensor, gen_relative_position_index((grid, grid))):
        return entry
    return dataclasses.replace(
        entry, fate="unexpected", note=f"not the index of a grid of {grid} x {grid} patches, row by row"
    )


def _compare(state: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> list[Key]:
    """What our encoder lacks, or has in another shape."""
    keys = [
        Key(name, tuple(shape), "missing", "our encoder has it, the file does not")
        for name, shape in shapes.items()
        if name not in state
    ]
    for name, tensor in state.items():
        if name not in shapes:
            keys.append(Key(name, tuple(tensor.shape), "unexpected", "our encoder of this kind has none"))
        elif tensor.shape != shapes[name]:
            keys.append(Key(name, tuple(tensor.shape), "unexpected", f"expected shape {tuple(shapes[name])}"))
    return keys
