"""Which stored images a report shows: drawn by a seed, held-out ones before those that training has seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from usfm.data.codec import decode_grey
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardFile, ShardIndex
from usfm.rng import generator

__all__ = ["Thumbnail", "contact_sheet", "draw_row", "held_out_first"]

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Thumbnail:
    """A stored image of one organ, (H, W) uint8."""

    organ: str
    source: str
    licence: str
    pixels: npt.NDArray[np.uint8]


def contact_sheet(shards: Path, seed: int = 0) -> list[Thumbnail]:
    """One stored image per organ, drawn by `seed`, organs in name order."""
    reader, sheet = ShardReader(shards), []
    for organ, files in _by_organ(reader.index.files).items():
        file, row = draw_row(files, seed, "contact sheet", organ)
        values = reader.take(file.path, np.array([row]), ["image", "source", "licence"]).to_pylist()[0]
        sheet.append(Thumbnail(organ, values["source"], values["licence"], decode_grey(values["image"])))
    return sheet


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


def _by_organ(files: Sequence[ShardFile]) -> dict[str, list[ShardFile]]:
    grouped: dict[str, list[ShardFile]] = {}
    for file in sorted(files, key=lambda f: (f.organ, f.path)):
        if file.rows:
            grouped.setdefault(file.organ, []).append(file)
    return grouped
