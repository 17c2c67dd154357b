"""Positions for another image side: bias tables and position embeddings, enlarged by timm's own functions.

The authors' loader transposes the table and yields NaN at 256, 384, 448 and 480 px. timm's keeps rows as rows;
tests hold it against positions that are computed by hand, at every side from 64 to 1024 px. Shrinking a table is
ours: timm's cuts off what is far, so that an encoder that was enlarged would not come back.
"""

import warnings

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

from usfm.errors import CheckpointError

__all__ = ["resize_positions", "resize_table"]

CLS_ROWS = 3  # cls -> patch, patch -> cls, cls -> cls; the last rows of a table


def resize_table(table: torch.Tensor, grid: int) -> torch.Tensor:
    """A relative position bias table for another grid.

    Near offsets keep their values, far ones are stretched by a geometric progression (BEiT's scheme), so a patch
    sees its neighbours as before. A smaller grid reads the places that its offsets would be stretched to, so
    enlarging and shrinking again gives the table back, smoothed a little. The three CLS rows are copied.

    Args:
        table: ((2 G - 1)^2 + 3, heads); row (dh + G - 1) * (2 G - 1) + (dw + G - 1).
        grid: patches per side of the new image, >= 2.

    Returns:
        ((2 grid - 1)^2 + 3, heads), finite where the table is.

    Raises:
        CheckpointError: a grid of one patch has no offsets, or the table is not of a square grid.
    """
    side = round((len(table) - CLS_ROWS) ** 0.5)
    if side**2 + CLS_ROWS != len(table) or side % 2 == 0:
        raise CheckpointError(
            f"a bias table of {len(table)} rows is not of a square grid: expected (2 G - 1)^2 + 3"
        )
    old = (side + 1) // 2
    if old == grid:
        return table
    if min(old, grid) < 2:
        raise CheckpointError(f"cannot resize a bias table from a grid of {old} to {grid}; both must be at least 2")
    if grid < old:
        return _shrunk(table, old, grid)
    rows = (2 * grid - 1) ** 2 + CLS_ROWS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"timm\.")  # of torch, about how timm indexes
        resized: torch.Tensor = resize_rel_pos_bias_table(
            table, (grid, grid), (rows, table.shape[1]), old_window_size=(old, old)
        )
    return resized


def _shrunk(table: torch.Tensor, old: int, grid: int) -> torch.Tensor:
    """The table at the places of a smaller grid's offsets, bilinear."""
    places = _stretched(grid, old).clamp(max=old - 1)
    places = torch.cat([-places.flip(0), torch.zeros(1), places])[:, None]  # (2 grid - 1, 1)
    weight = (1 - (places - torch.arange(1 - old, old)).abs()).clamp_min(0).to(table.device)
    offsets = table[:-CLS_ROWS].float().reshape(2 * old - 1, 2 * old - 1, -1)
    read = torch.einsum("ai,bj,ijh->abh", weight, weight, offsets).flatten(0, 1)
    return torch.cat([read.to(table.dtype), table[-CLS_ROWS:]])


def _stretched(grid: int, larger: int) -> torch.Tensor:
    """Where timm, as BEiT, puts the offsets 1 .. grid - 1 on a larger grid: 1, 1 + q, 1 + q + q^2, ...

    q lies between 1.01 and 1.5, in between so that the farthest lands on the farthest.
    """
    powers = torch.arange(grid - 1, dtype=torch.float64)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (q**powers).sum() > larger - 1:
            high = q
        else:
            low = q
    return (low**powers).cumsum(0).float()


def resize_positions(state: dict[str, torch.Tensor], grid: int) -> dict[str, torch.Tensor]:
    """An encoder's state dict for another grid; everything but positions is passed on.

    Args:
        state: keys of `Encoder.state_dict()`.
        grid: patches per side.
    """
    resized = dict(state)
    for key, tensor in state.items():
        if key.endswith("relative_position_bias_table"):
            resized[key] = resize_table(tensor, grid)
        elif key == "beit.pos_embed":
            resized[key] = resample_abs_pos_embed(tensor, [grid, grid], num_prefix_tokens=1)
    return resized
