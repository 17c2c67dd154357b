"""Bias tables and position embeddings at other image sides, against positions that are worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.nn import functional as F
from weight_factory import images

from usfm.errors import CheckpointError
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights.resize import resize_positions, resize_table

SIDES = range(64, 1025, 16)


def stretched(old: int, new: int) -> np.ndarray:
    """Where the offsets 0, 1, 2, ... of a grid of `old` patches lie on one of `new`: 1, 1 + q, 1 + q + q^2, ...

    q is such that the farthest lands on the farthest, between 1.01 and 1.5 (BEiT).
    """
    if old == new:
        return np.arange(old, dtype=float)
    far = old - 1
    total = lambda q: (1 - q**far) / (1 - q) - (new - 1)  # noqa: E731
    q = 1.01 if total(1.01) > 0 else 1.5 if total(1.5) < 0 else brentq(total, 1.01, 1.5)
    return np.concatenate([[0.0], np.cumsum(q ** np.arange(far))])


def smooth(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Bilinear in the two offsets, different in each direction and sign: transposing or flipping it shows."""
    return 1.0 + 0.3 * down - 0.05 * right + 0.02 * down * right


def table_of(grid: int, heads: int = 1) -> torch.Tensor:
    """Row (dh + G - 1) * (2 G - 1) + dw + G - 1 holds the function at (dh, dw); the last three are marked."""
    offsets = np.arange(1 - grid, grid, dtype=float)
    rows = smooth(offsets[:, None], offsets[None]).ravel()
    column = torch.tensor(np.concatenate([rows, [701.0, 702.0, 703.0]]), dtype=torch.float32)
    return column[:, None] * (1 + torch.arange(heads))


@pytest.mark.parametrize("side", SIDES)
def test_a_table_keeps_its_function_at_every_side(side: int) -> None:
    """Every side from 64 to 1024 px with patches of 16, from the released 224 (also 256, 384, 448 and 480)."""
    grid = side // 16
    resized = resize_table(table_of(14, heads=2), grid)
    assert resized.shape == ((2 * grid - 1) ** 2 + 3, 2)
    assert bool(torch.isfinite(resized).all())
    assert resized[-3:, 0].tolist() == [701.0, 702.0, 703.0]  # cls -> patch, patch -> cls, cls -> cls
    places = stretched(min(14, grid), max(14, grid))
    places = np.concatenate([-places[:0:-1], places])
    offsets = np.arange(1 - grid, grid, dtype=float)
    # offset on the old grid: what is stretched there, or, on a smaller grid, would be stretched from here
    before = np.interp(offsets, places, np.arange(-13, 14, dtype=float)) if grid > 14 else places.clip(-13, 13)
    expected = smooth(before[:, None], before[None])
    assert np.allclose(resized[:-3, 0].reshape(2 * grid - 1, -1), expected, atol=2e-3)
    assert torch.allclose(resized[:, 1], 2 * resized[:, 0])
    if grid > 14:  # neighbours look as before
        middle = resized[:-3, 0].reshape(2 * grid - 1, -1)[grid - 2 : grid + 1, grid - 2 : grid + 1].numpy()
        near = np.array([-1.0, 0.0, 1.0])
        assert np.allclose(middle, smooth(near[:, None], near[None]), atol=1e-4)


@pytest.mark.parametrize(("small", "large"), [(4, 32), (6, 32), (14, 32), (14, 16), (7, 14), (13, 14)])
def test_enlarging_and_shrinking_again_gives_the_table_back(small: int, large: int) -> None:
    """Smoothed a little where a stretched offset falls between two of the larger grid; in timm's own way back
    what is far comes from too near.
    """
    table = table_of(small, heads=2)
    back = resize_table(resize_table(table, large), small)
    assert torch.equal(back[-3:], table[-3:])
    assert (back - table)[:-3].abs().max() < 0.1 * table[:-3].std()


@pytest.mark.parametrize("old", [2, 3, 4, 7, 16, 24, 32])
def test_tables_of_other_sides_stay_finite(old: int) -> None:
    table = table_of(old)
    for grid in (2, 3, 8, 14, 15, 31, 64):
        resized = resize_table(table, grid)
        assert bool(torch.isfinite(resized).all())
        assert resized[:-3].max() <= table[:-3].max() + 1e-4
        assert resized[:-3].min() >= table[:-3].min() - 1e-4


def test_the_same_side_changes_no_bit_and_odd_tables_are_refused() -> None:
    table = table_of(14)
    assert resize_table(table, 14) is table
    with pytest.raises(CheckpointError, match="of 733 rows is not of a square grid"):
        resize_table(torch.cat([table, table[:1]]), 14)
    with pytest.raises(CheckpointError, match="from a grid of 14 to 1"):
        resize_table(table, 1)


def test_position_embeddings_keep_orientation() -> None:
    """A plane that rises downwards stays one; the CLS row is copied."""
    rising = torch.arange(14.0)[:, None].expand(14, 14).reshape(1, 196, 1).expand(1, 196, 96)
    state = {
        "beit.pos_embed": torch.cat([torch.full((1, 1, 96), 9.0), rising], dim=1),
        "beit.norm.bias": torch.ones(2),
    }
    for grid in (4, 7, 24, 64):
        resized = resize_positions(state, grid)["beit.pos_embed"]
        assert resized.shape == (1, 1 + grid**2, 96)
        assert (resized[:, 0] == 9).all()
        plane = resized[0, 1:, 0].reshape(grid, grid)
        assert torch.allclose(plane, plane[:, :1].expand(-1, grid), atol=1e-4)  # nothing changes to the right
        assert (plane[1:] > plane[:-1]).all()
    assert resize_positions(state, 7)["beit.norm.bias"] is state["beit.norm.bias"]


@pytest.mark.parametrize("positions", ["shared_bias", "block_bias", "absolute"])
def test_a_resized_encoder_sees_the_enlarged_image_alike(positions: str) -> None:
    """Each patch of the large grid looks nearer to the same place of the small image than to its mirror places."""
    torch.manual_seed(0)
    config = EncoderConfig(size="nano", img_px=64, patch_px=8, positions=positions, drop_path=0.0)
    small = Encoder(config).eval()
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            if name.endswith("bias_table"):
                parameter.copy_(0.1 * table_of(8, heads=3).clamp(max=9))
    large = Encoder(config.model_copy(update={"img_px": 128})).eval()
    large.load_state_dict(resize_positions(small.state_dict(), 16))
    ramp = torch.linspace(0, 1, 64)[:, None].expand(64, 64) * torch.linspace(0.2, 1, 64)[None]
    image = (ramp + 0.02 * images(1)[0, 0])[None, None]
    with torch.inference_mode():
        before = small(image)[0, 1:].T.reshape(1, -1, 8, 8)
        after = large(F.interpolate(image, scale_factor=2, mode="bilinear"))[0, 1:].T.reshape(1, -1, 16, 16)
    after = F.avg_pool2d(after, 2)
    same = (after - before).square().mean()
    for mirrored in (before.flip(2), before.flip(3), before.transpose(2, 3)):
        assert same < (after - mirrored).square().mean()
