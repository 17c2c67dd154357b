"""Images to look at: drawn by a seed, from held-out splits before the one that training sees."""

from collections.abc import Sequence

from usfm.data.shards import ShardFile, ShardIndex
from usfm.rng import generator

__all__ = ["draw_row", "held_out_first"]

HELD_OUT = ("val", "test")


def held_out_first(index: ShardIndex, organ: str, trained: str) -> list[ShardFile]:
    """Shards of the first split that holds rows of the organ: held-out ones before the trained one."""
    for split in (*(s for s in HELD_OUT if s != trained), trained):
        if files := [f for f in index.files if f.split == split and f.organ == organ and f.rows]:
            return files
    return []


def draw_row(files: Sequence[ShardFile], seed: int, *purpose: str) -> tuple[ShardFile, int]:
    """One row of some shards, all rows equally likely."""
    row = int(generator(seed, *purpose).integers(sum(file.rows for file in files)))
    for file in files:
        if row < file.rows:
            return file, row
        row -= file.rows
    raise AssertionError("a row number lies within the sum of rows")
