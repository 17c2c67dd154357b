import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usfm.data.shards import ShardFile
from usfm.masking.frequency import BandStopConfig, band_masks
from usfm.report.data_pixels import SPECTRUM_PX, band_shares, pixel_numbers, power_spectrum, radial_mean
from usfm.report.data_sample import MOST_SHARDS, draw_rows
from usfm.report.data_spread import DistinctCount, Largest, Spread

WIDTH = 0.005


@given(st.lists(st.floats(1.0, 1e4), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_half_a_percent_of_the_sorted_values(values: list[float], share: float) -> None:
    spread = Spread.logarithmic(1, 1e5, WIDTH)
    for part in np.array_split(np.array(values), 3):
        spread.add(part)
    exact = sorted(values)[min(int(share * len(values)), len(values) - 1)]
    assert spread.quantile(share) == pytest.approx(exact, rel=1.1 * WIDTH)
    found = spread.summary()
    assert found is not None
    assert (found["count"], found["min"], found["max"]) == (len(values), min(values), max(values))
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-5)


@given(st.lists(st.sampled_from([128, 173, 256, 480, 512, 1024]), min_size=1, max_size=60))
def test_quantiles_of_image_sides_are_exact(sides: list[int]) -> None:
    spread = Spread.logarithmic(1, 1e5)
    spread.add(np.array(sides, float))
    assert spread.quantile(0.5) == sorted(sides)[len(sides) // 2]


def test_a_spread_without_values_says_nothing_and_one_with_outliers_keeps_them() -> None:
    spread = Spread.linear(0, 1, 10)
    assert spread.summary() is None
    spread.add(np.array([-5.0, 7.0]))
    assert (spread.quantile(0), spread.quantile(1)) == (-5.0, 7.0)


def test_distinct_texts_are_counted_exactly_then_estimated_in_any_order() -> None:
    counted, backwards = DistinctCount(keep=1024), DistinctCount(keep=1024)
    for n in range(1000):
        counted.add(f"group {n % 900}")
    assert (counted.exact, counted.count) == (True, 900)
    for n in range(50_000):
        counted.add(f"group {n}")
        backwards.add(f"group {49_999 - n}")
    assert not counted.exact
    assert counted.count == backwards.count == pytest.approx(50_000, rel=0.1)  # 3 sigma of 1 / sqrt(1024)


def test_the_largest_are_kept_and_no_key_fills_the_list() -> None:
    largest = Largest(keep=3, keep_each=2)
    for row, score in enumerate([0.5, 0.9, 0.7, 0.8]):
        largest.add("a", score, "a.arrow", row)
    largest.add("b", 0.1, "b.arrow", 9)
    assert largest.ordered() == [(0.9, "a.arrow", 1), (0.8, "a.arrow", 3), (0.1, "b.arrow", 9)]


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    noise = np.random.default_rng(0).normal(128, 20, (SPECTRUM_PX, SPECTRUM_PX))
    pixels = np.rint(np.clip(noise, 0, 255)).astype(np.uint8)
    radial = radial_mean(power_spectrum(pixels))
    assert radial.shape == (SPECTRUM_PX // 2,)
    assert radial[10:].mean() == pytest.approx(400, rel=0.03)
    assert radial[60:].max() / radial[60:].min() < 1.6  # flat, but for chance


@pytest.mark.parametrize("cycles", [5, 20, 90])
def test_a_grating_peaks_at_its_cycles_per_image_whatever_the_images_size(cycles: int) -> None:
    for size in (SPECTRUM_PX, 2 * SPECTRUM_PX):
        wave = 128 + 60 * np.cos(2 * np.pi * cycles * np.arange(size) / size)
        pixels = np.rint(np.broadcast_to(wave, (300, size))).astype(np.uint8)
        assert radial_mean(power_spectrum(pixels)).argmax() + 1 == cycles


def test_bands_are_those_that_the_frequency_mask_removes() -> None:
    radii = BandStopConfig().radii(SPECTRUM_PX)
    power = np.random.default_rng(1).random((SPECTRUM_PX, SPECTRUM_PX))
    power[0, 0] = 0.0
    masks = torch.fft.ifftshift(band_masks(SPECTRUM_PX, radii), dim=(-2, -1)).numpy()
    shares = band_shares(power, radii)
    assert shares[1:-1] == pytest.approx([power[mask].sum() / power.sum() for mask in masks])
    assert shares.sum() == pytest.approx(1)


def test_a_flat_image_has_no_power_and_no_nan() -> None:
    flat = np.full((50, 70), 77, np.uint8)
    numbers = pixel_numbers([flat], [16, 45])
    assert numbers.band_shares.tolist() == [0, 0, 0]
    assert np.isfinite(numbers.power_db).all()
    assert (numbers.mean, numbers.std, numbers.histogram[77]) == (77, 0, 1)


def test_every_image_weighs_the_same() -> None:
    dark, bright = np.zeros((10, 10), np.uint8), np.full((200, 100), 250, np.uint8)
    numbers = pixel_numbers([dark, bright], [16, 45])
    assert (numbers.images, numbers.mean, numbers.mean_std) == (2, 125, 125)
    assert (numbers.black, numbers.white) == (0.5, 0.5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 80), st.integers(0, 9))
def test_drawn_rows_exist_and_come_once(rows: list[int], count: int, seed: int) -> None:
    files = [ShardFile(f"{n}.arrow", "train", "heart", of, 0, "") for n, of in enumerate(rows)]
    drawn = draw_rows(files, count, seed, "test")
    assert len(drawn) == len(set(drawn)) == min(count, sum(rows))
    assert all(0 <= row < rows[int(path.removesuffix(".arrow"))] for path, row in drawn)
    assert drawn == draw_rows(files, count, seed, "test")


def test_all_rows_are_drawn_equally_often() -> None:
    files = [ShardFile(f"{n}.arrow", "train", "heart", of, 0, "") for n, of in enumerate([1, 3, 6])]
    drawn = [place for seed in range(2000) for place in draw_rows(files, 2, seed, "test")]
    counts = np.array([drawn.count((f"{n}.arrow", row)) for n, of in enumerate([1, 3, 6]) for row in range(of)])
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.8)


def test_of_very_many_shards_only_some_are_opened() -> None:
    files = [ShardFile(f"{n}.arrow", "train", "heart", 50, 0, "") for n in range(3 * MOST_SHARDS)]
    drawn = draw_rows(files, 500, 0, "test")
    assert len(set(drawn)) == 500
    assert len({path for path, _ in drawn}) == MOST_SHARDS
