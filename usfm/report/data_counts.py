"""Counts over every row of a set of shards: one pass, small columns alone, memory that does not grow with rows."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from usfm.data.shard_columns import shard_columns
from usfm.data.shards import ShardFile, ShardIndex
from usfm.report.data_spread import DistinctCount, Largest, Spread

__all__ = ["CELL", "OTHER_LABELS", "TEXT_FLAGS", "Counts", "OrganNumbers", "count_rows"]

CELL = (
    "organ",
    "split",
    "source",
    "device",
    "licence",
    "flags",
    "masked",
    "paired",
    "grouped",
    "spaced",
    "cropped",
    "texted",
)
"""What rows are counted by, all at once: every marginal of these is a sum of cells."""
MAX_LABELS = 1000  # distinct labels counted by organ
TEXT_FLAGS = ("text", "burned_in_stated")
OTHER_LABELS = "(further labels)"
MAX_ORIGINS = 3  # shown by source
CROP_SHARE = 0.01  # an image counts as cropped from this share of its area on
WORST, WORST_EACH = 24, 4
_COLUMNS = (
    "source", "device", "licence", "origin", "group", "label", "mask_classes", "pair", "flags", "spacing_mm",
    "height", "width", "source_height", "source_width", "crop", "text_px", "source_sha256",
)  # fmt: skip
_NUMBER = re.compile(r"(?<=[=: ])[-+]?\d+(\.\d+)?([eE][-+]?\d+)?\b")


@dataclass
class OrganNumbers:
    """Of one organ: sizes in px, spacing in mm per stored px, shares that were cut off and painted over."""

    height: Spread = field(default_factory=lambda: Spread.logarithmic(1, 1e5))
    width: Spread = field(default_factory=lambda: Spread.logarithmic(1, 1e5))
    source_height: Spread = field(default_factory=lambda: Spread.logarithmic(1, 1e5))
    source_width: Spread = field(default_factory=lambda: Spread.logarithmic(1, 1e5))
    spacing_mm: Spread = field(default_factory=lambda: Spread.logarithmic(1e-4, 1e2))
    crop_removed: Spread = field(default_factory=lambda: Spread.linear(0, 1, 1000))
    text_share: Spread = field(default_factory=lambda: Spread.linear(0, 1, 1000))


@dataclass
class Counts:
    """What one pass over the rows gives.

    Attributes:
        cells: rows by `CELL`.
        labels: rows by organ and label; numbers in labels are replaced by "#", so that measurements add up.
        numbers: by organ.
        groups: distinct groups (patients, clips) by organ and split.
        files: distinct source files by source.
        origins: some of the provenance texts by source.
        text_rows: the rows of which most was painted over as text.
        unpainted_rows: rows with text by their header or the detector, of which nothing was painted over.
    """

    cells: Counter[tuple[str | bool, ...]] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    numbers: dict[str, OrganNumbers] = field(default_factory=lambda: defaultdict(OrganNumbers))
    groups: dict[tuple[str, str], DistinctCount] = field(default_factory=lambda: defaultdict(DistinctCount))
    files: dict[str, DistinctCount] = field(default_factory=lambda: defaultdict(DistinctCount))
    origins: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    text_rows: Largest = field(default_factory=lambda: Largest(WORST, WORST_EACH))
    unpainted_rows: Largest = field(default_factory=lambda: Largest(WORST, WORST_EACH))

    def by(self, *names: str) -> Counter[tuple[str | bool, ...]]:
        """Rows by some of the parts of `CELL`, in the order of `names`."""
        places = [CELL.index(name) for name in names]
        made: Counter[tuple[str | bool, ...]] = Counter()
        for cell, rows in self.cells.items():
            made[tuple(cell[place] for place in places)] += rows
        return made


def count_rows(index: ShardIndex, advance: Callable[[int], object] = lambda rows: None) -> Counts:
    """Count all rows; `advance` is called with the rows of each shard that is done."""
    counts = Counts()
    for file in index.files:
        if file.rows:
            _count_shard(file, shard_columns(index.root, file, _COLUMNS), counts)
        advance(file.rows)
    return counts


def _count_shard(file: ShardFile, batch: pa.RecordBatch, counts: Counts) -> None:
    column = {name: batch.column(name) for name in batch.schema.names}
    crop = np.array(column["crop"].flatten().to_numpy(zero_copy_only=False)).reshape(-1, 4)
    whole = _floats(column["source_height"]) * _floats(column["source_width"])
    removed = 1 - crop[:, 2].astype(float) * crop[:, 3] / whole
    painted = _floats(column["text_px"]) / (_floats(column["height"]) * _floats(column["width"]))

    cells = pa.table(
        {
            "source": column["source"],
            "device": column["device"],
            "licence": column["licence"],
            "flags": column["flags"],
            "masked": pc.not_equal(column["mask_classes"], ""),
            "paired": pc.is_valid(column["pair"]),
            "grouped": pc.not_equal(column["group"], ""),
            "spaced": pc.is_valid(column["spacing_mm"]),
            "cropped": pa.array(removed >= CROP_SHARE),
            "texted": pa.array(painted > 0),
        }
    )
    for cell in cells.group_by(list(CELL[2:])).aggregate([([], "count_all")]).to_pylist():
        counts.cells[file.organ, file.split, *(cell[name] for name in CELL[2:])] += cell["count_all"]

    numbers = counts.numbers[file.organ]
    for name in ("height", "width", "source_height", "source_width"):
        getattr(numbers, name).add(_floats(column[name]))
    numbers.spacing_mm.add(_floats(column["spacing_mm"].drop_null()))
    numbers.crop_removed.add(np.clip(removed, 0, 1))
    numbers.text_share.add(painted[painted > 0])

    labels = counts.labels[file.organ]
    for label, rows in _value_counts(column["label"]):
        name = _NUMBER.sub("#", label)
        labels[name if name in labels or len(labels) < MAX_LABELS else OTHER_LABELS] += rows
    for group in pc.unique(column["group"]).to_pylist():
        if group:
            counts.groups[file.organ, file.split].add(group)
    _count_sources(column, counts)
    _find_text(file, column, painted, counts)


def _count_sources(column: dict[str, pa.Array], counts: Counts) -> None:
    pairs = pa.table({name: column[name] for name in ("source", "source_sha256")}).group_by(
        ["source", "source_sha256"]
    )
    for pair in pairs.aggregate([]).to_pylist():
        counts.files[pair["source"]].add(pair["source_sha256"])
    origins = pa.table({name: column[name] for name in ("source", "origin")}).group_by(["source", "origin"])
    for pair in origins.aggregate([]).to_pylist():
        known = counts.origins[pair["source"]]
        if pair["origin"] and pair["origin"] not in known and len(known) < MAX_ORIGINS:
            known.append(pair["origin"])


def _find_text(
    file: ShardFile, column: dict[str, pa.Array], painted: npt.NDArray[np.float64], counts: Counts
) -> None:
    sources, digests = column["source"], column["source_sha256"]
    clips: set[str] = set()  # of whose frames the worst was taken
    for row in np.argsort(-painted, kind="stable")[: np.count_nonzero(painted > 0)].tolist():
        if len(clips) == WORST:
            break
        if (digest := digests[row].as_py()) not in clips:
            clips.add(digest)
            counts.text_rows.add(sources[row].as_py(), float(painted[row]), file.path, row)
    known = pc.match_substring_regex(column["flags"], rf"\b({'|'.join(TEXT_FLAGS)})\b").to_numpy(
        zero_copy_only=False
    )
    for row in np.flatnonzero(known & (painted == 0))[:WORST].tolist():
        counts.unpainted_rows.add(sources[row].as_py(), 0.0, file.path, row)


def _value_counts(column: pa.Array) -> list[tuple[str, int]]:
    counted = pc.value_counts(column)
    return list(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values
