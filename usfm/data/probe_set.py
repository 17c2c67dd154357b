"""Labelled rows for probes: chosen by `usfm.data.probe_rows`, decoded once, kept small."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from usfm.data.codec import decode_grey
from usfm.data.labelled_rows import remap
from usfm.data.location import Location
from usfm.data.probe_rows import ChosenTask, ProbeKind, ProbeRow, Protocol, choose_tasks
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError, ShardError

__all__ = ["ProbeSet", "ProbeTask", "check_tasks", "load_probe_set"]


@dataclass(frozen=True)
class ProbeTask:
    """The rows of one task; positions are those of its `ProbeSet`.

    Attributes:
        name: of the task.
        kind: classification or segmentation.
        classes: names by class number; segmentation starts with the background.
        rows: (m,) positions, in the order of ids.
        labels: (m,) class numbers; all zero for segmentation.
        masks: (H, W) uint8 class numbers of each row; empty for classification.
        protocol: how fit and scored rows are kept apart.
        left_out: class and why it cannot be probed.
        unlisted: how many rows its classes do not name, by reason (`ChosenTask`).
    """

    name: str
    kind: ProbeKind
    classes: list[str]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    masks: list[npt.NDArray[np.uint8]]
    protocol: Protocol
    left_out: dict[str, str]
    unlisted: dict[str, int]


@dataclass(frozen=True)
class ProbeSet:
    """All rows that some tasks need, each once, on canvases.

    Attributes:
        ids: (n,) row ids.
        groups: (n,) patients.
        held_out: (n,) bool, True = val or test.
        image: (n, S, S) uint8, each image top left.
        height: (n,) int64, px on the canvas.
        width: (n,) int64.
        tasks: what is asked of them.
    """

    ids: list[str]
    groups: list[str]
    held_out: npt.NDArray[np.bool_]
    image: npt.NDArray[np.uint8]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    tasks: list[ProbeTask]

    def __len__(self) -> int:
        return len(self.ids)


def check_tasks(
    shards: Location,
    tasks: Sequence[TaskConfig],
    cache: CacheConfig | None = None,
    refused: Callable[[DataError], None] | None = None,
) -> dict[str, dict[str, int]]:
    """Read labels alone: can every task be scored on these shards?

    The arguments are those of `load_probe_set`.

    Returns:
        `ChosenTask.unlisted` by task, of those that leave rows out.

    Raises:
        ConfigError: as of `choose_tasks`.
        DataError: as of `choose_tasks`.
        ShardError: as of `choose_tasks`.
    """
    if not tasks:
        return {}
    chosen = choose_tasks(ShardReader(shards, cache), shards, tasks, False, "split", 1, refused)
    return {task.name: task.unlisted for task in chosen if task.unlisted}


def load_probe_set(
    shards: Location,
    tasks: Sequence[TaskConfig],
    organ: bool,
    protocol: Protocol,
    rows_per_class: int,
    canvas_px: int,
    cache: CacheConfig | None = None,
    refused: Callable[[DataError], None] | None = None,
) -> ProbeSet:
    """Choose and decode the rows of some tasks.

    Args:
        shards: where `usfm ingest` wrote.
        tasks: labelled tasks.
        organ: add the task "organ" over all organs.
        protocol: "split" falls back to "folds" for a task in which a class lacks fit or held-out rows; the organ
            task leaves such a class out instead.
        rows_per_class: at most so many rows of a class among those to fit, and among those to score.
        canvas_px: side of a canvas.
        cache: for shards of an object store.
        refused: told of a task that refuses a row, which is then left out and the others are not; None = it raises.

    Raises:
        ConfigError: as of `choose_tasks`.
        DataError: as of `choose_tasks`.
        ShardError: as of `choose_tasks`, or an image is larger than the canvas.
    """
    reader = ShardReader(shards, cache)
    chosen = choose_tasks(reader, shards, tasks, organ, protocol, rows_per_class, refused)
    every = sorted({row.id: row for task in chosen for row in task.rows}.values(), key=lambda row: row.id)
    decoded = _decode(reader, every, canvas_px)
    position = {row.id: n for n, row in enumerate(every)}
    return ProbeSet(
        ids=[row.id for row in every],
        groups=[row.group for row in every],
        held_out=np.array([row.held_out for row in every], bool),
        image=decoded["image"],
        height=decoded["height"],
        width=decoded["width"],
        tasks=[_placed(task, position, decoded["masks"]) for task in chosen],
    )


def _decode(reader: ShardReader, rows: Sequence[ProbeRow], canvas_px: int) -> dict[str, Any]:
    image = np.zeros((len(rows), canvas_px, canvas_px), np.uint8)
    height, width = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    masks: dict[str, tuple[bytes, str]] = {}
    by_file: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_file.setdefault(row.file.path, []).append(place)
    for path, places in by_file.items():
        numbers = np.array([rows[place].number for place in places], np.int64)
        found: pa.RecordBatch = reader.take(path, numbers, ["id", "image", "mask", "mask_classes"])
        for place, values in zip(places, found.to_pylist(), strict=True):
            pixels = decode_grey(values["image"])
            high, wide = pixels.shape
            if max(high, wide) > canvas_px:
                raise ShardError(f"{values['id']} has {wide} x {high} px; set canvas_px to {max(high, wide)}")
            image[place, :high, :wide] = pixels
            height[place], width[place] = high, wide
            if values["mask"] is not None:
                masks[values["id"]] = values["mask"], values["mask_classes"]
    return {"image": image, "height": height, "width": width, "masks": masks}


def _placed(task: ChosenTask, position: dict[str, int], masks: dict[str, tuple[bytes, str]]) -> ProbeTask:
    """A task with the positions of its rows, and the masks in its own numbers."""
    drawn = []
    if task.kind == "segmentation" and task.config is not None:
        stored = [masks[row.id] for row in task.rows]
        drawn = [remap(decode_grey(mask), json.loads(names), task.config) for mask, names in stored]
    return ProbeTask(
        task.name, task.kind, task.classes, np.array([position[row.id] for row in task.rows], np.int64),
        np.array(task.labels, np.int64), drawn, task.protocol, task.left_out, task.unlisted,
    )  # fmt: skip
