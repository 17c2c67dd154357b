import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from usfm.data import duplicates
from usfm.data.cleaning.hashes import DuplicateConfig, alike, hamming
from usfm.data.duplicates import NearDuplicate, band_widths, near_duplicates

Row = tuple[int, int, bytes]


def picture(seed: int, change: int = 0) -> bytes:
    """A noise thumbnail; up to `change` 60 grey levels are added to a corner, which lowers the correlation."""
    pixels = np.random.default_rng(seed).integers(0, 180, (16, 16)).astype(np.uint8)
    pixels[: change % 17] += 60
    return pixels.tobytes()


def brute_force(rows: list[Row], config: DuplicateConfig) -> dict[int, set[int]]:
    """Row -> kept rows that it resembles; every row is compared with every kept one."""
    kept: list[Row] = []
    removed: dict[int, set[int]] = {}
    for number, value, thumbnail in rows:
        like = {
            other
            for other, other_value, other_thumbnail in kept
            if hamming(value, other_value) <= config.max_distance and alike(thumbnail, other_thumbnail, config)
        }
        if like:
            removed[number] = like
        else:
            kept.append((number, value, thumbnail))
    return removed


def found(rows: list[Row], config: DuplicateConfig, folder: Path) -> list[NearDuplicate]:
    for file in folder.glob("*"):
        file.unlink()
    return list(near_duplicates(iter(rows), config, folder))


def made_rows(seed: int, count: int, originals: int, flips: int) -> list[Row]:
    """Noisy copies of some originals: hashes with flipped bits, thumbnails with changes."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(-(2**63), 2**63 - 1, originals)
    rows = []
    for number in range(count):
        origin = int(rng.integers(originals))
        value = int(hashes[origin]) & (2**64 - 1)
        for bit in rng.integers(0, 64, int(rng.integers(flips + 1))):
            value ^= 1 << int(bit)
        signed = value - 2**64 if value >= 2**63 else value
        rows.append((number * 3, signed, picture(origin % 5, int(rng.integers(0, 17)))))
    return rows


def check(rows: list[Row], config: DuplicateConfig, folder: Path) -> list[NearDuplicate]:
    got, expected = found(rows, config, folder), brute_force(rows, config)
    by_number = {row[0]: row for row in rows}
    assert [entry.row for entry in got] == [row[0] for row in rows if row[0] in expected]
    for entry in got:
        assert entry.kept in expected[entry.row]
        assert entry.distance == hamming(by_number[entry.row][1], by_number[entry.kept][1])
    return got


@given(st.integers(0, 10**6), st.integers(0, 120), st.integers(1, 40), st.integers(0, 9), st.integers(0, 7))
@example(0, 120, 1, 0, 6)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_to_comparing_every_row_with_every_kept_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, count: int, originals: int, flips: int, far: int
) -> None:
    rows = made_rows(seed, count, originals, flips)
    with monkeypatch.context() as small:  # many blocks, merges, files and pieces with few rows
        for name, value in {"BLOCK": 7, "RUN": 16, "PAIRS": 5, "LONG_RANGE": 4, "MAX_COMPARED": 10**6}.items():
            small.setattr(duplicates, name, value)
        check(rows, DuplicateConfig(max_distance=far, min_correlation=0.9), tmp_path)


def test_equal_to_brute_force_with_the_real_sizes(tmp_path: Path) -> None:
    got = check(made_rows(1, 2500, 900, 7), DuplicateConfig(max_distance=6, min_correlation=0.95), tmp_path)
    assert 200 < len(got) < 2400


def test_the_nearest_is_named(tmp_path: Path) -> None:
    rows = [(0, 0b1111, picture(0)), (1, 0b11000000, picture(0)), (2, 0b111, picture(0))]
    config = DuplicateConfig(max_distance=3, min_correlation=0.9)
    assert found(rows, config, tmp_path) == [NearDuplicate(2, 0, 1)]


def test_likeness_is_not_passed_on(tmp_path: Path) -> None:
    """A ~ B ~ C, but A and C differ in 4 bits: both ends stay, in whichever order they come."""
    chain = [(0, 0b0000, picture(0)), (1, 0b0011, picture(0)), (2, 0b1111, picture(0))]
    config = DuplicateConfig(max_distance=2, min_correlation=0.9)
    assert [entry.row for entry in found(chain, config, tmp_path)] == [1]
    middle_first = [chain[1], chain[0], chain[2]]
    assert [entry.row for entry in found(middle_first, config, tmp_path)] == [0, 2]


def test_thousands_of_equal_frames_cost_a_comparison_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*args: object) -> bool:
        nonlocal calls
        calls += 1
        return alike(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(duplicates, "alike", counted)
    black = [(number, 7, bytes(256)) for number in range(5000)]
    assert len(found(black, DuplicateConfig(), tmp_path)) == 4999
    assert calls == 4999


def test_one_hash_for_unlike_images_is_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def never(*_: object) -> bool:
        nonlocal calls
        calls += 1
        return False

    monkeypatch.setattr(duplicates, "alike", never)
    rows = [(number, 7, picture(number)) for number in range(3000)]
    random.Random(0).shuffle(rows)
    assert found(rows, DuplicateConfig(), tmp_path) == []
    assert calls <= 2 * duplicates.MAX_COMPARED * len(rows)


def test_bands_are_even_and_whole() -> None:
    for distance in range(8):
        widths = band_widths(distance)
        assert (len(widths), sum(widths)) == (distance + 1, 64)
        assert max(widths) - min(widths) <= 1
