"""Near-duplicates among any number of rows: one is kept, the others name it.

Two rows are near-duplicates when their perceptual hashes differ in at most `max_distance` bits and their thumbnails
correlate (`usfm.data.cleaning.hashes.alike`). Rows come in the order of preference and each is compared with rows
already kept alone. So of a chain A ~ B ~ C whose ends are not alike, A and C stay: likeness is not passed on, and
what stays never depends on scheduling. Thousands of equal frames cost one comparison each. A row that resembles
several kept rows names the nearest of those in earlier blocks, else the nearest in its own.

A hash is cut into `max_distance + 1` bands: two hashes that differ in fewer bits than there are bands agree in one
of them entirely (pigeonhole), so a sorted copy of the hashes per band, with that band in the highest bits, holds
all candidates of a row in one run of neighbours. Large sorted copies and all thumbnails lie in files.
Idea: G. Manku, A. Jain, A. Das Sarma, "Detecting near-duplicates for web crawling", WWW 2007; written anew.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from usfm.data.cleaning.hashes import DuplicateConfig, alike
from usfm.data.schema import THUMBNAIL_PX

__all__ = ["NearDuplicate", "band_widths", "near_duplicates"]

BLOCK = 1024
RUN = 1 << 18
PAIRS = 1 << 20
"""Pairs of hashes compared at a time."""
LONG_RANGE = 256
"""From so many candidates per row on, one numpy call per row is faster than one for all."""
MAX_COMPARED = 16
"""Thumbnails compared per row, nearest hashes first, and rows of one hash in the index: bounds the work where a
thousand rows that do not look alike share one hash."""
HASH_BITS = 64

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Candidates = tuple[int, Iterator[tuple[int, int]]]
"""An asking row, and for each candidate the bits in which it differs and its number, nearest first."""
ASKING_SHIFT, BITS_SHIFT = 50, 43
"""A pair is packed into one integer that sorts like (asking, bits, other)."""
BITS_MASK, OTHER_MASK = (1 << ASKING_SHIFT - BITS_SHIFT) - 1, (1 << BITS_SHIFT) - 1
_NONE: Numbers = np.empty(0, np.int64)


@dataclass(frozen=True)
class NearDuplicate:
    """A row that is not kept: its number, the kept row that it resembles most, and the bits they differ in."""

    row: int
    kept: int
    distance: int


def near_duplicates(
    rows: Iterable[tuple[int, int, bytes]], config: DuplicateConfig, folder: Path
) -> Iterator[NearDuplicate]:
    """Which rows to leave out, in the order of the rows.

    Args:
        rows: (number, 64-bit hash, thumbnail) of each row, the most wanted first.
        config: thresholds.
        folder: an existing folder on local disk for the index; some 350 bytes per kept row.
    """
    kept = _Kept(config.max_distance, folder)
    stream = iter(rows)
    try:
        while block := list(islice(stream, BLOCK)):
            hashes = np.array([value for _, value, _ in block], np.int64).view(np.uint64)
            stays = np.ones(len(block), bool)
            wanted = np.ones(len(block), bool)
            found: dict[int, NearDuplicate] = {}
            for before in (True, False):  # the index first: it spares most comparisons within the block
                pairs = kept.near(hashes) if before else kept.within(hashes, np.flatnonzero(stays))
                for at, candidates in pairs:
                    compared = equal = 0
                    for bits, other in candidates:
                        if not (before or stays[other]):
                            continue
                        number, _, thumbnail = kept.row(other) if before else block[other]
                        if alike(thumbnail, block[at][2], config):
                            stays[at] = False
                            found[at] = NearDuplicate(block[at][0], number, bits)
                            break
                        compared, equal = compared + 1, equal + (bits == 0)
                        if compared == MAX_COMPARED:
                            wanted[at] &= equal < MAX_COMPARED
                            break
            yield from (found[at] for at in sorted(found))
            kept.add([row for row, keep in zip(block, stays & wanted, strict=True) if keep])
    finally:
        kept.close()


def band_widths(max_distance: int) -> list[int]:
    """Bits of each of the `max_distance + 1` bands, as even as can be; they sum to 64."""
    bands = max_distance + 1
    return [HASH_BITS * (band + 1) // bands - HASH_BITS * band // bands for band in range(bands)]


class _Kept:
    """The rows kept so far: thumbnails in a file, hashes in sorted runs (the large ones in files)."""

    def __init__(self, max_distance: int, folder: Path) -> None:
        self.widths = band_widths(max_distance)
        self.max_distance = max_distance
        self.size = 0
        self._folder = folder
        self._runs: list[_Run] = []
        self._rows = (folder / "kept").open("w+b", buffering=0)

    def close(self) -> None:
        self._rows.close()

    def row(self, number: int) -> tuple[int, int, bytes]:
        size = _RECORD.itemsize
        record = np.frombuffer(os.pread(self._rows.fileno(), size, number * size), _RECORD)[0]
        return int(record["number"]), int(record["hash"]), record["thumbnail"].tobytes()

    def add(self, rows: Sequence[tuple[int, int, bytes]]) -> None:
        """Rows in order; they get the numbers from `size` on."""
        if not rows:
            return
        records = np.zeros(len(rows), _RECORD)
        records["number"] = [number for number, _, _ in rows]
        records["hash"] = [value for _, value, _ in rows]
        records["thumbnail"] = np.stack([np.frombuffer(data, np.uint8) for _, _, data in rows])
        self._rows.seek(0, os.SEEK_END)
        self._rows.write(records.tobytes())
        numbers = np.arange(self.size, self.size + len(rows))
        run = _sorted_run(records["hash"].view(np.uint64), numbers, self.widths)
        self.size += len(rows)
        # as in a log-structured merge tree: few runs, and every row is sorted a few times only
        while self._runs and len(self._runs[-1][0][1]) <= min(len(run[0][1]), RUN - 1):
            run = _merged(self._runs.pop(), run)
        if len(run[0][1]) >= RUN:
            run = [self._on_disk(band, *of_band) for band, of_band in enumerate(run)]
        self._runs.append(run)

    def near(self, hashes: Hashes) -> Iterator[Candidates]:
        """For places in `hashes`, the kept rows within the distance."""
        found = [_near(hashes, run, self.widths, self.max_distance, MAX_COMPARED) for run in self._runs]
        return _by_row(np.concatenate([_NONE, *found]))

    def within(self, hashes: Hashes, places: Numbers) -> Iterator[Candidates]:
        """For each of some places in `hashes`, those of them before it and within the distance."""
        run = _sorted_run(hashes[places], np.arange(len(places)), self.widths)
        packed = _near(hashes[places], run, self.widths, self.max_distance)
        packed = packed[(packed & OTHER_MASK) < packed >> ASKING_SHIFT]
        for at, candidates in _by_row(packed):
            yield int(places[at]), ((bits, int(places[other])) for bits, other in candidates)

    def _on_disk(self, band: int, values: Hashes, numbers: Numbers) -> tuple[Hashes, Numbers]:
        files = [self._folder / f"{self.size}_{band}_{what}.npy" for what in ("hashes", "numbers")]
        np.save(files[0], values)
        np.save(files[1], numbers)
        return np.load(files[0], mmap_mode="r"), np.load(files[1], mmap_mode="r")


_RECORD = np.dtype([("number", np.int64), ("hash", np.int64), ("thumbnail", np.uint8, THUMBNAIL_PX**2)])
_Run = list[tuple[Hashes, Numbers]]
"""For each band: hashes turned so that the band leads, sorted, and the numbers of their rows."""


def _near(hashes: Hashes, run: _Run, widths: Sequence[int], max_distance: int, most: int | None = None) -> Numbers:
    """Packed pairs in order, each once; the `most` nearest of each asking row."""
    found: list[Numbers] = [_NONE]
    turns = _turns(widths)
    for band, ((values, numbers), turn) in enumerate(zip(run, turns, strict=True)):
        asked = _turned(hashes, turn)
        rest = np.uint64((1 << (HASH_BITS - widths[band])) - 1)
        first = np.searchsorted(values, asked & ~rest, side="left")
        counts = np.searchsorted(values, asked | rest, side="right") - first
        seen = [_turned(_band_mask(widths, other), turn) for other in range(band)]
        for asking, at, differ in _close(values, asked, first, counts, max_distance):
            new = np.ones(len(at), bool)
            for mask in seen:  # a pair that agrees in an earlier band was found there
                new &= (differ & mask) != 0
            bits = np.bitwise_count(differ[new]).astype(np.int64)
            packed = asking[new] << ASKING_SHIFT | bits << BITS_SHIFT | numbers[at[new]]
            found.append(_nearest(packed, most))
    return _nearest(np.concatenate(found), most)


def _nearest(packed: Numbers, most: int | None) -> Numbers:
    packed = np.sort(packed)
    if most is None:
        return packed
    asking = packed >> ASKING_SHIFT
    return packed[np.arange(len(packed)) - np.searchsorted(asking, asking, side="left") < most]


def _by_row(packed: Numbers) -> Iterator[Candidates]:
    packed = np.sort(packed)
    asking, starts = np.unique(packed >> ASKING_SHIFT, return_index=True)
    for at, start, stop in zip(asking.tolist(), starts, np.append(starts, len(packed))[1:], strict=True):
        yield at, (((pair >> BITS_SHIFT) & BITS_MASK, pair & OTHER_MASK) for pair in map(int, packed[start:stop]))


def _close(
    values: Hashes, asked: Hashes, first: Numbers, counts: Numbers, max_distance: int
) -> Iterator[tuple[Numbers, Numbers, Hashes]]:
    """(asking, place in `values`, differing bits) of the close pairs; the i-th asks for `counts[i]` places."""
    if counts.sum() < LONG_RANGE * max(1, len(counts)):
        for asking, at in _ranges(first, counts):
            differ = values[at] ^ asked[asking]
            near = np.flatnonzero(np.bitwise_count(differ) <= max_distance)
            yield asking[near], at[near], differ[near]
        return
    for row, (start, count) in enumerate(zip(first.tolist(), counts.tolist(), strict=True)):
        differ = values[start : start + count] ^ asked[row]
        near = np.flatnonzero(np.bitwise_count(differ) <= max_distance)
        if len(near):
            yield np.full(len(near), row), start + near, differ[near]


def _ranges(first: Numbers, counts: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """(asking, place) for every place first[i] ... first[i] + counts[i] - 1, some `PAIRS` at a time."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS, side="right")))
        part = counts[start:stop]
        asking = np.repeat(np.arange(start, stop), part)
        offset = np.arange(len(asking)) - np.repeat(np.cumsum(part) - part, part)
        yield asking, np.repeat(first[start:stop], part) + offset
        start = stop


def _sorted_run(hashes: Hashes, numbers: Numbers, widths: Sequence[int]) -> _Run:
    run = []
    for turn in _turns(widths):
        values = _turned(hashes, turn)
        order = np.argsort(values, kind="stable")
        run.append((values[order], numbers[order]))
    return run


def _merged(one: _Run, other: _Run) -> _Run:
    run = []
    for (a, b), (c, d) in zip(one, other, strict=True):
        values, numbers = np.concatenate([a, c]), np.concatenate([b, d])
        order = np.argsort(values, kind="stable")  # two sorted halves: timsort merges them
        run.append((values[order], numbers[order]))
    return run


def _turns(widths: Sequence[int]) -> list[int]:
    return [sum(widths[:band]) for band in range(len(widths))]


def _band_mask(widths: Sequence[int], band: int) -> Hashes:
    """Ones where a band lies, counted from the highest bit."""
    below = HASH_BITS - sum(widths[: band + 1])
    return np.array([((1 << widths[band]) - 1) << below], np.uint64)


def _turned(hashes: Hashes, bits: int) -> Hashes:
    """Rotated left; distances stay the same."""
    return (hashes << np.uint64(bits)) | (hashes >> np.uint64(HASH_BITS - bits)) if bits else hashes
