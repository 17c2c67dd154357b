"""Which of our encoders a set of weights is, from the shapes alone."""

import re
from collections.abc import Mapping

import torch

from usfm.errors import CheckpointError
from usfm.models.encoder import SIZES, EncoderConfig
from usfm.models.weights.grey import NORMALISATIONS
from usfm.models.weights.layouts import Layout

__all__ = ["infer_config"]

SHARED = "beit.rel_pos_bias.relative_position_bias_table"
PER_BLOCK = "beit.blocks.0.attn.relative_position_bias_table"
ABSOLUTE = "beit.pos_embed"


def infer_config(source: str, state: Mapping[str, torch.Tensor], layout: Layout) -> EncoderConfig:
    """The network that these weights are.

    Args:
        source: named in errors.
        state: weights under our names.
        layout: what is known of the file beside them.

    Returns:
        The config. `drop_path` is the default. Mean and deviation are the layout's, the defaults where it has none.

    Raises:
        CheckpointError: not a size of ours, not square, no positions, or channels other than 1 and 3.
    """
    kernel = state.get("beit.patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3]:
        raise CheckpointError(f"{source} has no patch embedding with a square kernel (patch_embed.proj.weight)")
    width, channels, patch_px, _ = kernel.shape
    if channels not in (1, 3):
        raise CheckpointError(f"{source} takes {channels} channels; an encoder of ours takes 1 or 3")
    positions, rows, table_heads = _positions(source, state)
    grid = (round((rows - 3) ** 0.5) + 1) // 2 if positions != "absolute" else round((rows - 1) ** 0.5)
    expected = (2 * grid - 1) ** 2 + 3 if positions != "absolute" else grid**2 + 1
    if rows != expected or grid < 1:
        raise CheckpointError(f"{source}: {rows} rows of positions are not those of a square image")
    colour = {}
    if layout.normalisation and channels == 3:
        known = NORMALISATIONS[layout.normalisation]
        colour = {"channel_mean": known.mean, "channel_std": known.std}
    return EncoderConfig.build({
        "size": _size(source, state, width, table_heads),
        "img_px": grid * patch_px,
        "patch_px": patch_px,
        "positions": positions,
        "layer_scale": EncoderConfig().layer_scale if "beit.blocks.0.gamma_1" in state else None,
        "final_norm": "beit.norm.weight" in state,
        "channels": channels,
        "mask_token": layout.mask_token if "mask_token" in state else "none",
        **colour,
    })  # fmt: skip


def _positions(source: str, state: Mapping[str, torch.Tensor]) -> tuple[str, int, int | None]:
    """Kind of positions, their rows, and the heads if a table says."""
    kinds = {"shared_bias": SHARED, "block_bias": PER_BLOCK, "absolute": ABSOLUTE}
    found = [kind for kind, key in kinds.items() if key in state]
    if len(found) != 1:
        have = " and ".join(found) or "none"
        raise CheckpointError(f"{source} has {have} for positions; expected exactly one of {', '.join(kinds)}")
    tensor = state[kinds[found[0]]]
    if found[0] == "absolute":
        return "absolute", tensor.shape[1], None
    return found[0], tensor.shape[0], tensor.shape[1]


def _size(source: str, state: Mapping[str, torch.Tensor], width: int, table_heads: int | None) -> str:
    blocks = [int(match.group(1)) for key in state if (match := re.match(r"beit\.blocks\.(\d+)\.", key))]
    depth = max(blocks, default=-1) + 1
    for name, (our_width, our_depth, heads) in SIZES.items():
        if (our_width, our_depth) == (width, depth) and table_heads in (None, heads):
            return name
    known = ", ".join(f"{name} {shape[0]} x {shape[1]} x {shape[2]}" for name, shape in SIZES.items())
    raise CheckpointError(
        f"{source} is {width} wide with {depth} blocks and {table_heads or 'unknown'} heads; known sizes (width x "
        f"blocks x heads): {known}"
    )
