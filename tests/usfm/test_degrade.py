import math

import pytest
import torch

from usfm.data.degrade import CORRUPTIONS, NOTHING, RANGE_DB, SEVERITIES, DegradeConfig, corrupt, degrade
from usfm.errors import ConfigError

COUNT, PX = 6, 48


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth grey structure with fine texture, black in its lower left corner."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(PX), torch.arange(PX), indexing="ij")
    made = 0.5 + 0.15 * torch.sin(x / 5) * torch.cos(y / 7) + 0.1 * torch.rand(COUNT, PX, PX)
    made[:, -12:, :12] = 0
    return made[:, None]


@pytest.fixture(scope="module")
def index() -> torch.Tensor:
    return torch.arange(COUNT) + 100


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_a_function_of_seed_and_index(kind, images, index) -> None:
    whole = corrupt(images, kind, 2, index, seed=3)
    assert whole.shape == images.shape
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() <= whole.max() <= 1
    assert torch.equal(corrupt(images, kind, 2, index, seed=3), whole)
    # nothing depends on what else is in the batch
    assert torch.allclose(corrupt(images[2:3], kind, 2, index[2:3], seed=3), whole[2:3], atol=1e-6)
    if kind in ("speckle", "shadow", "gain"):
        assert not torch.allclose(corrupt(images, kind, 2, index, seed=4), whole, atol=1e-3)
        assert not torch.allclose(corrupt(images, kind, 2, index + 1, seed=3), whole, atol=1e-3)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severity_is_monotone_and_zero_is_the_identity(kind, images, index) -> None:
    made = [corrupt(images, kind, severity, index, seed=3) for severity in range(4)]
    assert torch.equal(made[0], images)
    kept = [psnr(one, images) for one in made[1:]]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] - kept[2] > 2
    assert kept[2] < 31
    assert NOTHING[kind] < SEVERITIES[kind][0] < SEVERITIES[kind][1] < SEVERITIES[kind][2]


@pytest.mark.parametrize("kind", ["contrast", "speckle", "shadow", "gain"])
def test_black_stays_black(kind, images, index) -> None:
    assert (corrupt(images, kind, 3, index, seed=0)[:, :, -12:, :12] == 0).all()


def test_blur_and_resolution_keep_a_flat_image_and_act_more_across_the_beam(index) -> None:
    flat = torch.full((COUNT, 1, PX, PX), 0.4)
    line = torch.zeros(COUNT, 1, PX, PX)
    line[:, :, PX // 2, PX // 2] = 1
    for kind in ("blur", "resolution"):
        assert torch.allclose(corrupt(flat, kind, 3, index, 0), flat, atol=1e-5)
        point = corrupt(line, kind, 3, index, 0)[0, 0]
        at = torch.arange(PX).float()
        spread = [float((profile * (at - (profile * at).sum()).square()).sum()) for profile in
                  ((side / side.sum()) for side in (point.sum(dim=1), point.sum(dim=0)))]  # fmt: skip
        assert spread[1] > 2 * spread[0], kind
    sd = SEVERITIES["blur"][2] * PX
    point = corrupt(line, "blur", 3, index, 0)[0, 0].sum(dim=0)
    assert float((point * (torch.arange(PX) - PX // 2).square()).sum()) == pytest.approx(sd**2, rel=0.01)


def test_speckle_has_the_statistics_of_a_rayleigh_field() -> None:
    """A grey of 0.5 with full speckle: the echo's mean over its sd is 1.91, as of fully developed speckle."""
    grey = torch.full((8, 1, 64, 64), 0.5)
    share = SEVERITIES["speckle"][2]
    echo = 10 ** ((corrupt(grey, "speckle", 3, torch.arange(8), 0) - 0.5) * RANGE_DB / 20)
    rayleigh = (echo - (1 - share)) / share
    assert float(rayleigh.mean()) == pytest.approx(1, abs=0.03)
    assert float(rayleigh.mean() / rayleigh.std()) == pytest.approx(math.sqrt(math.pi / (4 - math.pi)), rel=0.04)
    flat = (rayleigh - 1)[:, 0]
    across, along = ((a * b).mean() for a, b in ((flat[:, :, 1:], flat[:, :, :-1]), (flat[:, 1:], flat[:, :-1])))
    assert across > 1.5 * along.abs()


def test_a_shadow_darkens_behind_a_point_and_nothing_above_it(index) -> None:
    grey = torch.full((COUNT, 1, PX, PX), 0.9)
    made = corrupt(grey, "shadow", 2, index, 0)
    assert torch.equal(made[:, :, :2], grey[:, :, :2])
    lost = (grey - made)[:, 0]
    assert torch.allclose(lost.amax(dim=(1, 2)) * RANGE_DB, torch.tensor(20.0), atol=0.2)
    assert (lost[:, -1].sum(dim=-1) > lost[:, PX // 2].sum(dim=-1)).all(), "the cone widens"
    assert (lost[:, -1].amin(dim=-1) < 0.01).all(), "beside it nothing is lost"


def test_wrong_gain_depends_on_depth_alone_and_keeps_to_its_bound(index) -> None:
    made = (corrupt(torch.full((COUNT, 1, PX, PX), 0.5), "gain", 2, index, 0) - 0.5) * RANGE_DB
    assert torch.allclose(made, made[:, :, :, :1].expand_as(made), atol=1e-4)
    assert made.abs().max() <= 12
    assert (made[:, 0, -1, 0] - made[:, 0, 0, 0]).abs().min() > 8


def test_contrast_flattens_around_the_mean(images, index) -> None:
    made = corrupt(images, "contrast", 2, index, 0)
    shown = images > 0.1
    assert made[shown].mean() == pytest.approx(float(images[shown].mean()), abs=1e-3)
    assert made[shown].std() == pytest.approx(float(images[shown].std()) / SEVERITIES["contrast"][1], rel=0.02)


def test_random_degradations_are_drawn_by_index_and_keep_their_chance(images, index) -> None:
    config = DegradeConfig()
    made = degrade(images, index, config, seed=1)
    assert torch.equal(made, degrade(images, index, config, seed=1))
    assert torch.allclose(degrade(images[1:3], index[1:3], config, seed=1), made[1:3], atol=1e-5)
    assert not torch.equal(made, degrade(images, index, config, seed=2))
    assert not torch.equal(made, degrade(images, index + COUNT, config, seed=1))
    assert 0 <= made.min() <= made.max() <= 1
    assert torch.equal(degrade(images, index, DegradeConfig(chance=0), seed=1), images)
    grey = torch.full((200, 1, 8, 8), 0.5)
    only = DegradeConfig(
        blur=(0, 0), contrast=(1, 1), speckle=(0, 0), shadow=(0, 0), resolution=(1, 1), gain=(6, 6)
    )
    touched = (degrade(grey, torch.arange(200), only, 0) != grey).flatten(1).any(dim=1)
    assert 75 < touched.sum() < 125


@pytest.mark.parametrize(
    "wrong", [{"blur": [0.2, 0.1]}, {"contrast": [0.5, 1]}, {"speckle": [0, 1]}, {"chance": 2}]
)
def test_ranges_are_checked(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DegradeConfig.build(wrong)


@pytest.mark.parametrize(("kind", "severity"), [("smoke", 1), ("blur", 4), ("blur", -1)])
def test_an_unknown_corruption_is_refused(kind, severity, images, index) -> None:
    with pytest.raises(ConfigError, match="no corruption"):
        corrupt(images, kind, severity, index, 0)


def test_images_need_not_be_square(index) -> None:
    wide = torch.rand(COUNT, 1, 20, 36)
    for kind in CORRUPTIONS:
        made = corrupt(wide, kind, 2, index, 0)
        assert made.shape == wide.shape
        assert (made - wide).abs().mean() > 0.005
