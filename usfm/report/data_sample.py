"""Which stored images are looked at: drawn by a seed, from the index alone, wherever the shards lie."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardFile
from usfm.rng import generator

__all__ = ["MOST_SHARDS", "Place", "by_organ", "draw_rows", "read_rows", "varied_rows"]

Place = tuple[str, int]
"""Path of a shard and number of a row in it."""
MOST_SHARDS = 64
"""From more shards of one organ than this no sample is drawn: opening a shard may mean to fetch it."""
SPARE = 4


def by_organ(files: Sequence[ShardFile]) -> dict[str, list[ShardFile]]:
    """Shards that hold rows, by organ in name order."""
    grouped: dict[str, list[ShardFile]] = {}
    for file in sorted(files, key=lambda f: (f.organ, f.path)):
        if file.rows:
            grouped.setdefault(file.organ, []).append(file)
    return grouped


def draw_rows(files: Sequence[ShardFile], count: int, seed: int, *purpose: str) -> list[Place]:
    """Up to `count` rows without repeats, all equally likely, in the order in which they are stored.

    Of more than `MOST_SHARDS` shards so many are drawn first, in proportion to their rows, and the rows from
    those: still nearly equally likely, but rows of one shard come together more often.
    """
    random = generator(seed, *purpose)
    rows = np.array([file.rows for file in files], np.int64)
    chosen = list(files)
    if len(files) > MOST_SHARDS:
        picked = random.choice(len(files), MOST_SHARDS, replace=False, p=rows / rows.sum())
        chosen = [files[at] for at in sorted(picked)]
        rows = np.array([file.rows for file in chosen], np.int64)
    drawn = np.sort(random.choice(rows.sum(), min(count, int(rows.sum())), replace=False))
    ends = np.cumsum(rows)
    of = np.searchsorted(ends, drawn, "right")
    return [(chosen[at].path, int(row - (ends[at] - rows[at]))) for row, at in zip(drawn, of, strict=True)]


def varied_rows(
    reader: ShardReader, files: Sequence[ShardFile], count: int, seed: int, *purpose: str
) -> list[Place]:
    """`count` rows that differ in where they come from as far as the shards allow, whatever the sources' sizes.

    Sources (in a seeded order) give one row each in turn, and so do the shards within a source, so that devices and
    splits vary too. Of some more rows than wanted those come first whose file was not chosen before, so that one
    clip does not fill the sheet.
    """
    places = _over_sources(files, SPARE * count, seed, *purpose)
    names = [row["id"].rpartition("#")[0] for row in read_rows(reader, places, ("id",))]
    seen: Counter[str] = Counter()
    turns = []
    for name in names:
        turns.append(seen[name])
        seen[name] += 1
    return [places[at] for at in np.argsort(turns, kind="stable")[:count]]


def read_rows(reader: ShardReader, places: Iterable[Place], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows at some places as plain dictionaries, one at a time."""
    for path, row in places:
        yield reader.take(path, np.array([row]), columns).to_pylist()[0]


def _over_sources(files: Sequence[ShardFile], count: int, seed: int, *purpose: str) -> list[Place]:
    sources: dict[str, list[ShardFile]] = {}
    for file in files:
        sources.setdefault(file.source, []).append(file)
    random = generator(seed, *purpose)
    queues = [_in_turn(sources[name], random) for name in random.permutation(sorted(sources))]
    taken: list[Place] = []
    while queues and len(taken) < count:
        queue = queues.pop(0)
        if entry := next(queue, None):
            taken.append(entry)
            queues.append(queue)
    return taken


def _in_turn(files: Sequence[ShardFile], random: np.random.Generator) -> Iterator[Place]:
    """One row of each shard in turn, shards and rows in a seeded order, until nothing is left."""
    order = [files[at] for at in random.permutation(len(files))[:MOST_SHARDS]]
    rows = [random.permutation(file.rows) for file in order]
    for turn in range(max(len(numbers) for numbers in rows)):
        for file, numbers in zip(order, rows, strict=True):
            if turn < len(numbers):
                yield file.path, int(numbers[turn])
