"""Labelled tasks from shards: which rows, which classes, and nested label fractions that never cut a patient."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.data.codec import decode_grey
from usfm.data.schema import SPLITS
from usfm.data.shard_reader import ShardReader
from usfm.errors import DataError

__all__ = ["LabelledSet", "TaskConfig", "label_fraction", "load_task", "remap"]


class TaskConfig(Config):
    """A labelled task.

    Attributes:
        name: short name, used in folders and URLs.
        kind: classification or segmentation.
        organs: organs whose rows are used.
        sources: sources whose rows are used; None = all.
        classes: name -> the labels (classification) or mask class names (segmentation) that count as it.
            Rows with other labels are left out. For segmentation the background comes by itself, and
            ["*"] stands for every mask class.
        canvas_px: see `usfm.data.stream.StreamConfig`.
    """

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    kind: Literal["classification", "segmentation"]
    organs: list[str]
    sources: list[str] | None = None
    classes: dict[str, list[str]]
    canvas_px: int = 256

    @model_validator(mode="after")
    def _enough(self) -> "TaskConfig":
        least = 2 if self.kind == "classification" else 1
        if len(self.classes) < least:
            raise ValueError(f"a {self.kind} task needs at least {least} classes, got {list(self.classes)}")
        return self

    @property
    def class_names(self) -> list[str]:
        """Names in the order of logits; segmentation starts with the background."""
        return [*(["background"] if self.kind == "segmentation" else []), *self.classes]


@dataclass(frozen=True)
class LabelledSet:
    """The rows of one split, decoded.

    Attributes:
        ids: row ids.
        groups: patient keys; a row whose patient is not known is its own group.
        image: (n, S, S) uint8 canvases.
        height: (n,) int64, px of the image on its canvas.
        width: (n,) int64.
        label: (n,) int64 class numbers (classification), else all zero.
        mask: (n, S, S) uint8 class numbers (segmentation), else empty.
        sources: source of each row.
        licences: licence of each row.
        spacing_mm: (n,) float64 mm per pixel, NaN where not known.
    """

    ids: list[str]
    groups: list[str]
    image: npt.NDArray[np.uint8]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8]
    sources: list[str]
    licences: list[str]
    spacing_mm: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ids)


def load_task(shards: str, task: TaskConfig) -> dict[str, LabelledSet]:
    """All splits of a task. Decoded once per process; treat the arrays as read-only.

    Raises:
        DataError: a class has no rows in the training split, or a split is empty.
        ShardError: shards are missing or hold none of the organs.
    """
    return _load(shards, task.model_dump_json())


@lru_cache(maxsize=4)
def _load(shards: str, task_json: str) -> dict[str, LabelledSet]:
    task, reader = TaskConfig.model_validate_json(task_json), ShardReader(shards)
    sets = {}
    for split in SPLITS:
        files = [f for f in reader.index.files if f.split == split and f.organ in task.organs]
        sets[split] = _decode(reader.table(files), task)
        if not len(sets[split]):
            raise DataError(
                f"task {task.name}: no {split} rows with {list(task.classes)} in {shards}; check organs, sources "
                "and classes against `usfm ingest`'s table, or change split.seed"
            )
    present = set(sets["train"].label) if task.kind == "classification" else set(np.unique(sets["train"].mask))
    for number, name in enumerate(task.class_names):
        if number not in present:
            raise DataError(f"task {task.name}: class {name!r} has no training rows in {shards}")
    return sets


def _decode(table: pa.Table, task: TaskConfig) -> LabelledSet:
    size, chosen = task.canvas_px, []
    label_of = {label: k for k, labels in enumerate(task.classes.values()) for label in labels}
    for row in table.to_pylist():
        wanted = task.sources is None or row["source"] in task.sources
        known = row["mask"] is not None if task.kind == "segmentation" else row["label"] in label_of
        if wanted and known:
            chosen.append(row)
    image = np.zeros((len(chosen), size, size), np.uint8)
    mask = np.zeros((len(chosen) if task.kind == "segmentation" else 0, size, size), np.uint8)
    for n, row in enumerate(chosen):
        image[n, : row["height"], : row["width"]] = decode_grey(row["image"])
        if task.kind == "segmentation":
            stored = decode_grey(row["mask"])
            mask[n, : row["height"], : row["width"]] = remap(stored, json.loads(row["mask_classes"]), task)
    return LabelledSet(
        ids=[row["id"] for row in chosen],
        groups=[row["group"] or row["id"] for row in chosen],
        image=image,
        height=np.array([row["height"] for row in chosen], np.int64),
        width=np.array([row["width"] for row in chosen], np.int64),
        label=np.array([label_of.get(row["label"], 0) for row in chosen], np.int64),
        mask=mask,
        sources=[row["source"] for row in chosen],
        licences=[row["licence"] for row in chosen],
        spacing_mm=np.array([row["spacing_mm"] or np.nan for row in chosen], np.float64),
    )


def remap(stored: npt.NDArray[np.uint8], names: dict[str, str], task: TaskConfig) -> npt.NDArray[np.uint8]:
    """Mask class numbers of the shard to those of the task; classes that the task does not name are background."""
    table = np.zeros(256, np.uint8)
    for number, wanted in enumerate(task.classes.values(), start=1):
        for stored_number, name in names.items():
            if name in wanted or wanted == ["*"]:
                table[int(stored_number)] = number
    return table[stored]


def label_fraction(
    groups: Sequence[str], strata: Sequence[str], fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Rows that belong to a label fraction: whole groups, stratified, nested.

    Within each stratum groups are ordered by a hash of (seed, group) and the first ceil(fraction n) are taken, so
    the 5 % set lies inside the 10 % set of the same seed, and every stratum keeps at least one group.

    Args:
        groups: group of each row.
        strata: stratum of each row (class or source); a group belongs to its most frequent one.
        fraction: in (0, 1].
        seed: which nested family of sets.

    Returns:
        (n,) bool, True = in the fraction.
    """
    votes: dict[str, Counter[str]] = {}
    for group, stratum in zip(groups, strata, strict=True):
        votes.setdefault(group, Counter())[stratum] += 1
    members: dict[str, list[str]] = {}
    for group, counted in votes.items():
        winner = min(counted, key=lambda s: (-counted[s], s))
        members.setdefault(winner, []).append(group)
    taken: set[str] = set()
    for of_stratum in members.values():
        ordered = sorted(of_stratum, key=lambda g: hashlib.blake2b(f"{seed}\x1f{g}".encode()).digest())
        taken.update(ordered[: math.ceil(round(fraction * len(ordered), 9))])
    return np.array([group in taken for group in groups], dtype=np.bool_)
