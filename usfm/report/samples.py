"""Which stored images a report shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from usfm.data.codec import decode_grey
from usfm.data.held_out import draw_row
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardFile

__all__ = ["Thumbnail", "contact_sheet"]


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


def _by_organ(files: Sequence[ShardFile]) -> dict[str, list[ShardFile]]:
    grouped: dict[str, list[ShardFile]] = {}
    for file in sorted(files, key=lambda f: (f.organ, f.path)):
        if file.rows:
            grouped.setdefault(file.organ, []).append(file)
    return grouped
