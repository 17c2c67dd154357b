"""Both masks against slow numpy versions written from the paper's description."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usfm.errors import ConfigError
from usfm.masking.dual import DualMask
from usfm.masking.frequency import (
    BandStopConfig,
    band_masks,
    band_radii,
    band_stop,
    choose_bands,
    half_spectrum,
    removed_spectrum,
)
from usfm.masking.patches import PatchMaskConfig, fill_hidden, hidden_units, patch_mask, upsample_mask

SIDE = 48


def images(n: int = 4, side: int = SIDE) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def band_stop_by_hand(x: np.ndarray, radii: list[int], removed: list[int]) -> np.ndarray:
    """One image (N, N), pixel by pixel."""
    n = len(x)
    keep = np.ones((n, n))
    for i in range(n):
        for j in range(n):
            d = math.dist((i, j), (n // 2, n // 2))
            for k in removed:
                if radii[k] < d <= radii[k + 1]:
                    keep[i, j] = 0
    return np.abs(np.fft.ifft2(np.fft.ifftshift(keep * np.fft.fftshift(np.fft.fft2(x)))))


def test_radii_of_the_papers_figure() -> None:
    assert BandStopConfig.preset("figure").radii(224) == [16, 45, 77, 112]
    assert BandStopConfig.preset("figure").removed(224) == 2


def test_radii_of_the_fine_preset() -> None:
    radii = BandStopConfig.preset("fine").radii(224)
    assert radii[:4] == [8, 16, 19, 22]
    assert 11 <= len(radii) - 1 <= 13
    assert radii[-1] <= 112


@given(st.integers(8, 300), st.integers(1, 60), st.integers(1, 120), st.floats(0.05, 2), st.integers(1, 60))
def test_radii_follow_the_recurrence_or_are_refused(size, protect, base, growth, step) -> None:
    valid = 0 < protect < base <= size // 2 and math.floor(growth * base) >= 1
    if not valid:
        with pytest.raises(ConfigError):
            band_radii(size, protect, base, growth, step)
        return
    radii = band_radii(size, protect, base, growth, step)
    assert radii[:2] == [protect, base]
    for a, b in zip(radii[1:-1], radii[2:], strict=True):
        assert b == a + min(math.floor(growth * a), step)
    assert radii[-1] <= size // 2 < radii[-1] + min(math.floor(growth * radii[-1]), step)


def test_bands_are_disjoint_and_spare_the_centre_and_the_corners() -> None:
    radii = band_radii(SIDE, 4, 9, 0.5, 6)
    masks = band_masks(SIDE, radii)
    assert masks.sum(0).max() == 1
    union = masks.any(0)
    assert not union[SIDE // 2, SIDE // 2]
    assert not union[0, 0]


@pytest.mark.parametrize("side", [48, 49])
def test_band_stop_equals_the_slow_version(side: int) -> None:
    x, radii = images(3, side), band_radii(side, 4, 9, 0.5, 6)
    chosen = torch.tensor([[True, False, False], [False, True, True], [False, False, False]])
    assert len(radii) - 1 == 3
    ours = band_stop(x, half_spectrum(band_masks(side, radii)), chosen)
    for n in range(3):
        slow = band_stop_by_hand(x[n, 0].numpy().astype(np.float64), radii, chosen[n].nonzero()[:, 0].tolist())
        assert np.abs(ours[n, 0].numpy() - slow).max() < 2e-6
    assert torch.allclose(ours[2], x[2], atol=1e-6)  # nothing removed: the identity


def test_band_stop_removes_the_energy_of_its_bands_and_no_other() -> None:
    x, radii = images(1, SIDE), band_radii(SIDE, 4, 9, 0.5, 6)
    masks = band_masks(SIDE, radii)
    kept = torch.fft.fftshift(torch.fft.fft2(x)) * ~masks[1]
    energy = (kept.abs() ** 2).sum() / SIDE**2
    complex_image = torch.fft.ifft2(torch.fft.ifftshift(kept))
    assert torch.allclose((complex_image.abs() ** 2).sum(), energy, rtol=1e-5)  # Parseval
    stopped = band_stop(x, half_spectrum(masks), torch.tensor([[False, True, False]]))
    assert torch.allclose(stopped, complex_image.abs(), atol=1e-6)


@pytest.mark.parametrize("side", [48, 49])
def test_half_of_the_spectrum_says_it_all(side: int) -> None:
    """Every band is symmetric under k -> -k, so the half that `rfft2` keeps determines the other."""
    masks = band_masks(side, [4, 9, 16, side // 2])  # up to the highest frequency
    whole = torch.fft.ifftshift(masks, dim=(-2, -1))
    negated = whole.flip((1, 2)).roll((1, 1), (1, 2))  # W[-k mod N]
    assert torch.equal(negated, whole)
    halves = half_spectrum(masks)
    assert halves.shape == (3, side, side // 2 + 1)
    assert torch.equal(halves > 0, whole[:, :, : side // 2 + 1])
    chosen = torch.tensor([[True, False, True], [False, False, False]])
    union = removed_spectrum(halves, chosen)
    assert torch.equal(union[0] > 0, (whole[0] | whole[2])[:, : side // 2 + 1])
    assert not union[1].any()


def test_as_many_bands_as_asked_for_uniformly() -> None:
    chosen = choose_bands(torch.arange(6000), bands=3, removed=2, seed=1)
    assert (chosen.sum(1) == 2).all()
    assert (chosen.float().mean(0) - 2 / 3).abs().max() < 0.02


def test_a_preset_is_one_key_of_a_recipe() -> None:
    fine = BandStopConfig.preset("fine")
    assert BandStopConfig.build({"preset": "fine"}) == fine
    assert BandStopConfig.build({"preset": "figure"}) == BandStopConfig()
    changed = BandStopConfig.build({"preset": "fine", "ratio": 0.5})
    assert (changed.growth, changed.ratio) == (0.2, 0.5)
    assert "preset" not in changed.model_dump()  # a resolved config states values
    with pytest.raises(ConfigError, match="no preset 'coarse'; there are figure, fine"):
        BandStopConfig.build({"preset": "coarse"})


def test_the_constants_move_with_the_model_and_no_checkpoint_holds_them() -> None:
    dual = DualMask(SIDE, 8, PatchMaskConfig(unit_px=16), BandStopConfig(), seed=2)
    assert dict(dual.state_dict()) == {}
    assert dual.to("meta").bands.device.type == "meta"


def test_a_ratio_that_removes_nothing_is_refused_and_zero_is_off() -> None:
    with pytest.raises(ConfigError, match="removes none"):
        BandStopConfig(ratio=0.2).removed(224)
    assert BandStopConfig(ratio=0).removed(224) == 0


def test_default_patch_mask_hides_120_of_196_tokens() -> None:
    assert hidden_units(224, 16, PatchMaskConfig()) == (7, 30)
    mask = patch_mask(torch.arange(50), 224, 16, PatchMaskConfig(), seed=0)
    assert mask.shape == (50, 14, 14)
    assert (mask.sum((1, 2)) == 120).all()


def test_patch_mask_hides_whole_units_uniformly() -> None:
    mask = patch_mask(torch.arange(8000), 96, 8, PatchMaskConfig(unit_px=32, ratio=0.4), seed=3)  # 4 of 9 units
    units = mask[:, ::4, ::4]
    assert torch.equal(upsample_mask(units, 4), mask)
    assert (units.float().mean(0) - 4 / 9).abs().max() < 0.02
    assert len(np.unique(units.flatten(1).numpy(), axis=0)) == math.comb(9, 4)  # every subset occurs


@pytest.mark.parametrize(("size", "patch", "unit"), [(100, 16, 32), (96, 12, 32), (96, 64, 32)])
def test_a_unit_that_does_not_fit_is_refused(size: int, patch: int, unit: int) -> None:
    with pytest.raises(ConfigError, match="mask unit"):
        hidden_units(size, patch, PatchMaskConfig(unit_px=unit))


def test_fill_equals_the_slow_version() -> None:
    x, index = images(), torch.arange(4)
    hidden = upsample_mask(patch_mask(index, SIDE, 8, PatchMaskConfig(unit_px=16), 0), 8)
    filled = fill_hidden(x, hidden, PatchMaskConfig(unit_px=16), index, 0).numpy()
    for n in range(4):
        slow = x[n, 0].numpy().copy()
        slow[hidden[n].numpy()] = x[n, 0].numpy().mean(dtype=np.float64)
        assert np.abs(filled[n, 0] - slow).max() < 1e-6
    zero = fill_hidden(x, hidden, PatchMaskConfig(unit_px=16, fill="zero"), index, 0)
    assert torch.equal(zero, x * ~hidden[:, None])


def test_noise_fill_changes_hidden_pixels_alone_and_has_the_stated_spread() -> None:
    x = torch.full((8, 1, SIDE, SIDE), 0.5)
    hidden = torch.zeros(8, SIDE, SIDE, dtype=torch.bool)
    hidden[:, :24] = True
    filled = fill_hidden(x, hidden, PatchMaskConfig(fill="noise", noise_std=0.1), torch.arange(8), 0)
    assert torch.equal(filled[:, :, 24:], x[:, :, 24:])
    assert abs(float(filled[:, :, :24].std()) - 0.1) < 0.005


def test_speckle_grows_with_the_grey_value() -> None:
    x = torch.full((8, 1, SIDE, SIDE), 0.4)
    x[:, :, :, 24:] = 0.1
    hidden = torch.ones(8, SIDE, SIDE, dtype=torch.bool)
    config = PatchMaskConfig(fill="noise", noise_kind="speckle", noise_std=0.2)
    filled = fill_hidden(x, hidden, config, torch.arange(8), 0)
    assert float(filled[..., :24].std()) == pytest.approx(0.2 * 0.4, rel=0.05)
    assert float(filled[..., 24:].std()) == pytest.approx(0.2 * 0.1, rel=0.05)
    again = fill_hidden(x[5:], hidden[5:], config, torch.arange(5, 8), 0)
    assert torch.equal(again, filled[5:])  # a function of the sample, not of the batch


def test_dual_mask_is_band_stop_then_fill() -> None:
    x, index = images(6), torch.arange(10, 16)
    spatial, frequency = (
        PatchMaskConfig(unit_px=16),
        BandStopConfig(protect=4, base=9, growth=0.5, max_step=6, reference_px=None),
    )  # noqa: E501
    dual = DualMask(SIDE, 8, spatial, frequency, seed=2)
    out = dual(x, index)
    stopped = band_stop(x, dual.bands, choose_bands(index, 3, 2, seed=2))
    assert torch.equal(out.stopped, stopped)
    hidden = upsample_mask(out.tokens, 8)[:, None]
    assert torch.equal(out.images[~hidden], stopped[~hidden])
    means = stopped.mean((2, 3), keepdim=True).expand_as(stopped)
    assert torch.equal(out.images[hidden], means[hidden])
    again = dual(x[3:], index[3:])
    assert torch.equal(again.images, out.images[3:])


def test_empty_masks_are_the_identity() -> None:
    x = images()
    dual = DualMask(SIDE, 8, PatchMaskConfig(unit_px=16, ratio=0), BandStopConfig(ratio=0), seed=0)
    assert torch.equal(dual(x, torch.arange(4)).images, x)


@pytest.mark.parametrize("size", [48, 64, 96, 128, 224, 256, 384, 512, 1024])
@pytest.mark.parametrize("preset", ["figure", "fine"])
def test_every_size_has_the_same_bands(size: int, preset: str) -> None:
    config = BandStopConfig.preset(preset)
    if (size, preset) == (64, "fine"):  # narrow bands that would merge are refused, never silently fewer
        with pytest.raises(ConfigError, match="fall together"):
            config.radii(size)
        return
    radii, reference = config.radii(size), config.radii(224)
    assert len(radii) == len(reference)
    assert config.removed(size) == config.removed(224)
    assert np.abs(np.array(radii) / size - np.array(reference) / 224).max() <= 0.5 / size + 1e-9


def test_a_share_is_not_rounded_up_by_a_float() -> None:
    assert hidden_units(160, 16, PatchMaskConfig(unit_px=16, ratio=0.07)) == (10, 7)
