"""Contamination: which rows of a set of shards are in a benchmark's hash list.

Equal files are found by SHA-256, similar pictures by the same test that finds near-duplicates in ingest
(`usfm.data.cleaning.hashes`). The list lies in memory, the shards are streamed: memory grows with the list
alone. Similar hashes are found through bands: two 64-bit words that differ in at most d bits are equal in at
least one of d + 1 bands, so only lines that share a band are compared. No pair within d bits is missed.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from usfm.data.cleaning.hashes import DuplicateConfig, alike
from usfm.data.duplicates import band_widths
from usfm.data.hash_list import HashList
from usfm.data.location import Location, locate, write_bytes, writing
from usfm.data.shard_columns import shard_columns
from usfm.data.shards import ShardFile, ShardIndex

__all__ = ["CONTAMINATION", "BandedIndex", "Match", "find_matches", "write_contamination"]

CONTAMINATION = "contamination"
"""Folder beside the shards that holds <name>.csv and <name>.json of every list that was looked for."""
ROWS_AT_ONCE = 4096
PAIRS = 1 << 21
_Numbers = npt.NDArray[np.int64]
_COLUMNS = ("id", "source", "source_sha256", "phash", "thumbnail")


@dataclass(frozen=True)
class Match:
    """A row of the shards that is in the list.

    Attributes:
        id: of the row.
        split: of the row; "train" is what a benchmark's scores suffer from.
        organ: of the row.
        source: of the row.
        kind: "exact" (the same file, whichever frame of it) or "near" (a similar picture).
        listed: name of the line; of several the nearest, so that each frame of a clip finds its own.
        distance: bits in which the perceptual hashes differ; -1 where one of them is not known.
    """

    id: str
    split: str
    organ: str
    source: str
    kind: str
    listed: str
    distance: int


@dataclass(frozen=True)
class _Band:
    """`width` bits from bit `shift` on: their values over the list, sorted, and the lines in that order."""

    shift: int
    width: int
    values: npt.NDArray[np.uint64]
    order: _Numbers

    def runs(self, wanted: npt.NDArray[np.uint64]) -> tuple[_Numbers, _Numbers]:
        """Where in `order` the lines of each wanted value begin, and how many there are."""
        first = np.searchsorted(self.values, wanted, "left")
        return first, np.searchsorted(self.values, wanted, "right") - first


class BandedIndex:
    """Perceptual hashes, ready to find all within `distance` bits of others.

    Args:
        phash: (N,) uint64.
        distance: largest number of differing bits, 0..63.
    """

    def __init__(self, phash: npt.NDArray[np.uint64], distance: int) -> None:
        self._phash, self._distance = phash, distance
        self._bands: list[_Band] = []
        shift = 0
        for width in band_widths(distance):
            values = _part(phash, shift, width)
            order = np.argsort(values, kind="stable")
            self._bands.append(_Band(shift, width, values[order], order))
            shift += width

    def pairs(self, queries: npt.NDArray[np.uint64]) -> Iterator[npt.NDArray[np.int64]]:
        """Parts of (P, 3) int64 of (query, line, bits), ordered by query, bits, line; each pair once.

        A part compares about `PAIRS` pairs, so that a list of a thousand equal frames costs time, not memory.
        """
        runs = [band.runs(_part(queries, band.shift, band.width)) for band in self._bands]
        ends = np.cumsum(sum(counts for _, counts in runs))
        start = 0
        while start < len(queries):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + PAIRS, "right")))
            yield self._compare(queries, runs, start, stop)
            start = stop

    def _compare(
        self, queries: npt.NDArray[np.uint64], runs: Sequence[tuple[_Numbers, _Numbers]], start: int, stop: int
    ) -> npt.NDArray[np.int64]:
        found = []
        for band, (firsts, counts) in zip(self._bands, runs, strict=True):
            first, count = firsts[start:stop], counts[start:stop]
            query = np.repeat(np.arange(start, stop), count)
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # its run of candidates
            line = band.order[np.repeat(first, count) + within]
            bits = np.bitwise_count(queries[query] ^ self._phash[line]).astype(np.int64)
            near = bits <= self._distance
            found.append(np.stack([query[near], bits[near], line[near]], axis=1))
        ordered: npt.NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)[:, [0, 2, 1]]
        return ordered


def find_matches(
    index: ShardIndex,
    listed: HashList,
    config: DuplicateConfig,
    advance: Callable[[int], object] = lambda rows: None,
) -> Iterator[Match]:
    """Rows that are in the list, shard by shard in the order of the index, each row once.

    Args:
        index: of the shards.
        listed: what is looked for.
        config: when two pictures are similar.
        advance: called with the number of rows of each shard that is done.
    """
    lines = np.flatnonzero(listed.known)
    banded = BandedIndex(listed.phash[lines], config.max_distance)
    for file in index.files:
        batch = shard_columns(index.root, file, _COLUMNS)
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield from _matches(file, batch.slice(start, ROWS_AT_ONCE), listed, lines, banded, config)
        advance(file.rows)


def write_contamination(
    index: ShardIndex,
    listed: HashList,
    name: str,
    config: DuplicateConfig,
    output: Location = "",
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, Any]:
    """Look for a list and write `<name>.csv` (a line per `Match`) and `<name>.json` (the summary).

    Args:
        index: of the shards.
        listed: what is looked for.
        name: of the benchmark.
        config: when two pictures are similar.
        output: folder, "" = `contamination` beside the shards.
        advance: called with the number of rows of each shard that is done.

    Returns:
        The summary: `name`, `fingerprint` (of the shards), `rows` (looked at), `lines` (of the list),
        `lines_found`, `exact` and `near` (rows), `train_rows` (rows of either kind in the training split), and
        `by`: split -> organ -> {"exact": rows, "near": rows}.
    """
    folder = locate(output) if output else index.root / CONTAMINATION
    by: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    kinds: Counter[str] = Counter()
    lines: set[str] = set()
    with writing(folder / f"{name}.csv") as stream:
        text = TextIOWrapper(stream, encoding="utf-8", newline="")
        table = csv.DictWriter(text, list(Match.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        for match in find_matches(index, listed, config, advance):
            table.writerow(asdict(match))
            by[match.split][match.organ][match.kind] += 1
            kinds[match.kind] += 1
            lines.add(match.listed)
        text.detach()  # flushes; `writing` closes the stream itself
    summary = {
        "name": name,
        "fingerprint": index.fingerprint,
        "rows": sum(file.rows for file in index.files),
        "lines": len(listed.names),
        "lines_found": len(lines),
        "exact": kinds["exact"],
        "near": kinds["near"],
        "train_rows": sum(counts.total() for counts in by["train"].values()),
        "by": {
            split: {
                organ: {kind: counts[kind] for kind in ("exact", "near")} for organ, counts in sorted(of.items())
            }
            for split, of in sorted(by.items())
            if of
        },
    }
    write_bytes(folder / f"{name}.json", (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
    return summary


def _matches(
    file: ShardFile,
    batch: pa.RecordBatch,
    listed: HashList,
    lines: _Numbers,
    banded: BandedIndex,
    config: DuplicateConfig,
) -> Iterator[Match]:
    ids, sources, digests, phashes, thumbnails = (batch.column(name).to_pylist() for name in _COLUMNS)
    phash = np.array(phashes, np.int64).view(np.uint64)
    # neither: an ingest that made no hashes
    known = np.array([number != 0 or any(thumbnail) for number, thumbnail in zip(phashes, thumbnails, strict=True)])
    near: dict[int, tuple[int, int]] = {}
    for part in banded.pairs(phash) if config.near else ():
        for row, place, bits in part[known[part[:, 0]]].tolist():
            line = int(lines[place])
            if row not in near and alike(thumbnails[row], listed.thumbnail[line].tobytes(), config):
                near[row] = (line, bits)
    for row, digest in enumerate(digests):
        equal = listed.sha256.get(bytes.fromhex(digest)) if config.exact else None
        if equal is not None:
            line, bits = (
                _nearest(phash[row], thumbnails[row], np.array(equal), listed) if known[row] else (equal[0], -1)
            )
            yield Match(ids[row], file.split, file.organ, sources[row], "exact", listed.names[line], bits)
        elif row in near:
            line, bits = near[row]
            yield Match(ids[row], file.split, file.organ, sources[row], "near", listed.names[line], bits)


def _nearest(phash: np.uint64, thumbnail: bytes, lines: _Numbers, listed: HashList) -> tuple[int, int]:
    """Of some lines the one whose hash is nearest, of equally near ones by the thumbnail; and the bits."""
    bits = np.where(listed.known[lines], np.bitwise_count(listed.phash[lines] ^ phash).astype(np.int64), 65)
    apart = np.abs(listed.thumbnail[lines].astype(np.int64) - np.frombuffer(thumbnail, np.uint8)).sum(axis=1)
    best = int(np.lexsort((apart, bits))[0])
    return int(lines[best]), int(bits[best]) if bits[best] <= 64 else -1


def _part(values: npt.NDArray[np.uint64], shift: int, width: int) -> npt.NDArray[np.uint64]:
    return (values >> np.uint64(shift)) & np.uint64((1 << width) - 1)
