"""Labelled rows for probes: chosen once by a rule that depends on the rows alone, decoded once, kept small.

Two protocols keep patients apart. "split": fit on the training split, score on val and test, as ingest cut them.
"folds": every row is scored once by a model fitted on the other groups; for tasks too small for a split. Rows whose
patient is not known are one group per source there: they may all be of one patient.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from usfm.data.codec import decode_grey
from usfm.data.labelled_rows import remap
from usfm.data.location import Location, locate
from usfm.data.shard_columns import shard_columns
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.data.shards import ShardFile
from usfm.data.task_config import TaskConfig
from usfm.errors import ConfigError, ShardError

__all__ = ["ORGAN", "ProbeSet", "ProbeTask", "Protocol", "check_tasks", "choose_rows", "load_probe_set"]

Protocol = Literal["split", "folds"]
ORGAN = "organ"
"""Name of the task that always exists: which organ is it?"""
COLUMNS = ("id", "source", "group", "label", "mask_classes")
log = logging.getLogger(__name__)


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
    """

    name: str
    kind: Literal["classification", "segmentation"]
    classes: list[str]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    masks: list[npt.NDArray[np.uint8]]
    protocol: Protocol
    left_out: dict[str, str]


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


@dataclass(frozen=True)
class _Row:
    """One row before it is decoded."""

    file: ShardFile
    number: int
    id: str
    source: str
    group: str
    label: str
    mask_classes: str

    @property
    def held_out(self) -> bool:
        return self.file.split != "train"


def load_probe_set(
    shards: Location,
    tasks: Sequence[TaskConfig],
    organ: bool,
    protocol: Protocol,
    rows_per_class: int,
    canvas_px: int,
    cache: CacheConfig | None = None,
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

    Raises:
        ConfigError: a task has fewer than two groups of a class, or its organs have no rows; no mask holds one of
            its classes; or the name "organ" is taken.
        ShardError: no index there, a task lacks rows while shards cannot be read, or an image is larger than the
            canvas.
    """
    reader = ShardReader(shards, cache)
    chosen = _choose(reader, shards, tasks, organ, protocol, rows_per_class)
    every = sorted({row.id: row for _, of_task in chosen for row in of_task}.values(), key=lambda row: row.id)
    decoded = _decode(reader, every, canvas_px)
    position = {row.id: n for n, row in enumerate(every)}
    return ProbeSet(
        ids=[row.id for row in every],
        groups=[row.group for row in every],
        held_out=np.array([row.held_out for row in every], bool),
        image=decoded["image"],
        height=decoded["height"],
        width=decoded["width"],
        tasks=[_with_rows(task, of_task, position, decoded["masks"], tasks) for task, of_task in chosen],
    )


def check_tasks(shards: Location, tasks: Sequence[TaskConfig], cache: CacheConfig | None = None) -> None:
    """Read labels alone: can every task be scored on these shards?

    Raises:
        ConfigError: as of `load_probe_set`.
        ShardError: no index there, or a task lacks rows while shards cannot be read.
    """
    if tasks:
        _choose(ShardReader(shards, cache), shards, tasks, False, "split", 1)


def _choose(
    reader: ShardReader, shards: Location, tasks: Sequence[TaskConfig], organ: bool, protocol: Protocol, limit: int
) -> list[tuple[ProbeTask, list[_Row]]]:
    """Choose the rows of all tasks."""
    if any(task.name == ORGAN for task in tasks):
        raise ConfigError(f'probe task "{ORGAN}" exists by itself; give yours another name')
    wanted = {name for task in tasks for name in task.organs}
    rows, lost = _rows(shards, [f for f in reader.index.files if organ or f.organ in wanted])
    try:
        chosen = [_of_task(rows, task, protocol, limit) for task in tasks]
    except ConfigError as error:
        if lost:  # no fault of the task
            raise ShardError(f"{error}; these shards could not be read: {', '.join(lost)}") from error
        raise
    if organ and (made := _organs(rows, protocol, limit)) is not None:
        chosen.append(made)
    return chosen


def _rows(shards: Location, files: Iterable[ShardFile]) -> tuple[list[_Row], list[str]]:
    """The rows of some shards without their images; a shard that cannot be read is said, left out and named."""
    root, rows, lost = locate(shards), [], []
    for file in files:
        try:
            batch = shard_columns(root, file, COLUMNS)
        except ShardError as error:
            log.warning("%s; probes go without its rows", error)
            lost.append(file.path)
            continue
        columns = [batch.column(n).to_pylist() for n in range(len(COLUMNS))]
        for number, (name, source, group, label, masks) in enumerate(zip(*columns, strict=True)):
            rows.append(_Row(file, number, name, source, group or f"{source}/not known", label, masks))
    return rows, lost


def _of_task(
    rows: Sequence[_Row], task: TaskConfig, protocol: Protocol, limit: int
) -> tuple[ProbeTask, list[_Row]]:
    """Choose the rows of a task."""
    if task.kind not in ("classification", "segmentation"):
        raise ConfigError(
            f"probe task {task.name} is of kind {task.kind}; classification or segmentation is probed"
        )
    class_of = {label: k for k, labels in enumerate(task.classes.values()) for label in labels}
    of_class: dict[int, list[_Row]] = {}
    for row in rows:
        if row.file.organ not in task.organs or (task.sources is not None and row.source not in task.sources):
            continue
        if task.kind == "segmentation" and row.mask_classes:
            of_class.setdefault(0, []).append(row)
        elif task.kind == "classification" and row.label in class_of:
            of_class.setdefault(class_of[row.label], []).append(row)
    needed = [""] if task.kind == "segmentation" else task.class_names
    for number, name in enumerate(needed):
        groups = {row.group for row in of_class.get(number, [])}
        if len(groups) < 2:
            what = f"class {name!r}" if name else "its masks"
            raise ConfigError(
                f"probe task {task.name}: {what} come from {len(groups)} known patients, at least 2 are needed so "
                "that none is in both fit and score; check organs, sources and classes, or leave the task out"
            )
    if task.kind == "segmentation":
        _require_mask_classes(task, of_class[0])
    if protocol == "split" and not all(_in_both(of_class[number]) for number in range(len(needed))):
        protocol = "folds"
    return _cut(task.name, task.kind, task.class_names, of_class, protocol, limit, {})


def _require_mask_classes(task: TaskConfig, rows: Sequence[_Row]) -> None:
    """Masks name their classes; one that none of them names would be scored as drawn nowhere."""
    named = {name for text in {row.mask_classes for row in rows} for name in json.loads(text).values()}
    for name, wanted in task.classes.items():
        if wanted != ["*"] and named.isdisjoint(wanted):
            raise ConfigError(
                f"probe task {task.name}: class {name!r} is made of {wanted}, but the masks there hold only "
                f"{sorted(named)}; check the spelling, organs and sources"
            )


def _organs(rows: Sequence[_Row], protocol: Protocol, limit: int) -> tuple[ProbeTask, list[_Row]] | None:
    """The organ of a row as its class; None where fewer than two organs can be probed."""
    of_organ: dict[str, list[_Row]] = {}
    for row in rows:
        of_organ.setdefault(row.file.organ, []).append(row)
    left_out = {}
    for organ, members in of_organ.items():
        if protocol == "split" and not _in_both(members):
            left_out[organ] = "no rows to fit" if members[0].held_out else "no held-out rows"
        elif len({row.group for row in members}) < 2:
            left_out[organ] = "one known patient"
    names = sorted(set(of_organ) - set(left_out))
    if len(names) < 2:
        return None
    of_class = {number: of_organ[name] for number, name in enumerate(names)}
    return _cut(ORGAN, "classification", names, of_class, protocol, limit, left_out)


def _in_both(rows: Sequence[_Row]) -> bool:
    return len({row.held_out for row in rows}) == 2


def _cut(
    name: str, kind: Literal["classification", "segmentation"], classes: list[str],
    of_class: dict[int, list[_Row]], protocol: Protocol, limit: int, left_out: dict[str, str],
) -> tuple[ProbeTask, list[_Row]]:  # fmt: skip
    """At most `limit` rows of each class and part, in the order of ids."""
    taken: list[tuple[str, int, _Row]] = []
    for number, members in of_class.items():
        parts = [[row for row in members if row.held_out is out] for out in (False, True)]
        for part in parts if protocol == "split" else [members]:
            share = limit if protocol == "split" else 2 * limit
            keep = choose_rows([row.group for row in part], [row.id for row in part], share)
            taken += [(part[k].id, number, part[k]) for k in keep]
    taken.sort(key=lambda entry: entry[0])
    labels = np.array([number for _, number, _ in taken], np.int64)
    task = ProbeTask(name, kind, classes, np.empty(0, np.int64), labels, [], protocol, left_out)
    return task, [row for _, _, row in taken]


def choose_rows(groups: Sequence[str], ids: Sequence[str], limit: int) -> list[int]:
    """Positions of at most `limit` rows from as many groups as possible, by a hash of the ids alone.

    First one row of every group, then the second of each, and so on: a long clip does not crowd out other patients.
    """
    if len(ids) <= limit:
        return list(range(len(ids)))
    digest = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids]
    turn: dict[str, int] = Counter()
    ordered = []
    for n in sorted(range(len(ids)), key=digest.__getitem__):
        ordered.append((turn[groups[n]], digest[n], n))
        turn[groups[n]] += 1
    return sorted(n for _, _, n in sorted(ordered)[:limit])


def _decode(reader: ShardReader, rows: Sequence[_Row], canvas_px: int) -> dict[str, Any]:
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


def _with_rows(
    task: ProbeTask, rows: Sequence[_Row], position: dict[str, int], masks: dict[str, tuple[bytes, str]],
    configs: Sequence[TaskConfig],
) -> ProbeTask:  # fmt: skip
    """Fill in positions, and the masks in the numbers of the task."""
    drawn = []
    if task.kind == "segmentation":
        config = next(config for config in configs if config.name == task.name)
        for row in rows:
            stored, names = masks[row.id]
            drawn.append(remap(decode_grey(stored), json.loads(names), config))
    return ProbeTask(
        task.name, task.kind, task.classes, np.array([position[row.id] for row in rows], np.int64), task.labels,
        drawn, task.protocol, task.left_out,
    )  # fmt: skip
