"""Which rows the tasks of probes take: by a rule that depends on the rows alone, from their labels, without images.

Two protocols keep patients apart. "split": fit on the training split, score on val and test, as ingest cut them.
"folds": every row is scored once by a model fitted on the other groups; for tasks too small for a split. Rows whose
patient is not known are one group per source there: they may all be of one patient.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from usfm.data.labelled_rows import unlisted_in_label, unlisted_in_mask, unlisted_row
from usfm.data.location import Location, locate
from usfm.data.shard_columns import shard_columns
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardFile
from usfm.data.task_config import TaskConfig
from usfm.errors import ConfigError, DataError, ShardError

__all__ = ["ORGAN", "ChosenTask", "ProbeKind", "ProbeRow", "Protocol", "choose_rows", "choose_tasks"]

Protocol = Literal["split", "folds"]
ProbeKind = Literal["classification", "segmentation"]
ORGAN = "organ"
"""Name of the task that always exists: which organ is it?"""
COLUMNS = ("id", "source", "group", "label", "mask_classes")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeRow:
    """One row before it is decoded; `number` is its place in the shard."""

    file: ShardFile
    number: int
    id: str
    source: str
    group: str
    label: str
    mask_classes: str

    @property
    def held_out(self) -> bool:
        """Whether it is of val or test."""
        return self.file.split != "train"


@dataclass(frozen=True)
class ChosenTask:
    """The rows of one task, and its own numbers for them.

    Attributes:
        name: of the task.
        kind: classification or segmentation.
        classes: names by class number; segmentation starts with the background.
        rows: in the order of their ids.
        labels: class number of each row; all zero for segmentation.
        protocol: how fit and scored rows are kept apart.
        config: of a labelled task; None for the task "organ".
        left_out: class and why it cannot be probed.
        unlisted: how many rows the task does not use because no class names their label (segmentation: how many
            masks have a class that no class names, which is background), by reason.
    """

    name: str
    kind: ProbeKind
    classes: list[str]
    rows: list[ProbeRow]
    labels: list[int]
    protocol: Protocol
    config: TaskConfig | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, int] = field(default_factory=dict)


def choose_tasks(
    reader: ShardReader,
    shards: Location,
    tasks: Sequence[TaskConfig],
    organ: bool,
    protocol: Protocol,
    limit: int,
    refused: Callable[[DataError], None] | None = None,
) -> list[ChosenTask]:
    """Choose the rows of all tasks; the arguments are those of `usfm.data.probe_set.load_probe_set`.

    Raises:
        ConfigError: a task has fewer than two groups of a class, or its organs have no rows; no mask holds one of
            its classes; or the name "organ" is taken.
        DataError: a row's label is of no class, and the task refuses it (`TaskConfig.unlisted`); the row is named.
            Not where `refused` is told.
        ShardError: no index there, or a task lacks rows while shards cannot be read.
    """
    if any(task.name == ORGAN for task in tasks):
        raise ConfigError(f'probe task "{ORGAN}" exists by itself; give yours another name')
    wanted = {name for task in tasks for name in task.organs}
    rows, lost = _rows(shards, [f for f in reader.index.files if organ or f.organ in wanted])
    chosen = []
    for task in tasks:
        try:
            chosen.append(_of_task(rows, task, protocol, limit))
        except ConfigError as error:
            if lost:  # no fault of the task
                raise ShardError(f"{error}; these shards could not be read: {', '.join(lost)}") from error
            raise
        except DataError as error:
            if refused is None:
                raise
            refused(error)
    if organ and (made := _organs(rows, protocol, limit)) is not None:
        chosen.append(made)
    return chosen


def _rows(shards: Location, files: Iterable[ShardFile]) -> tuple[list[ProbeRow], list[str]]:
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
            rows.append(ProbeRow(file, number, name, source, group or f"{source}/not known", label, masks))
    return rows, lost


def _of_task(rows: Sequence[ProbeRow], task: TaskConfig, protocol: Protocol, limit: int) -> ChosenTask:
    """Choose the rows of a task."""
    if task.kind not in ("classification", "segmentation"):
        raise ConfigError(
            f"probe task {task.name} is of kind {task.kind}; classification or segmentation is probed"
        )
    class_of = {label: k for k, labels in enumerate(task.classes.values()) for label in labels}
    of_class: dict[int, list[ProbeRow]] = {}
    strange: list[tuple[ProbeRow, str]] = []
    for row in rows:
        if row.file.organ not in task.organs or (task.sources is not None and row.source not in task.sources):
            continue
        if task.kind == "classification":
            unknown = unlisted_in_label(row.label, task)
            if not unknown:
                of_class.setdefault(class_of[row.label], []).append(row)
        elif row.mask_classes:
            unknown = unlisted_in_mask(json.loads(row.mask_classes), task)
            of_class.setdefault(0, []).append(row)
        else:
            continue
        if unknown:
            strange.append((row, unknown))
    _require_classes(task, of_class)
    if strange and task.unlisted == "refuse":
        row, unknown = strange[0]
        raise unlisted_row(task, row.id, row.label, unknown, "probe task")
    if protocol == "split" and not all(_in_both(members) for members in of_class.values()):
        protocol = "folds"
    counts = dict(sorted(Counter(unknown for _, unknown in strange).items()))
    taken, labels = _cut(of_class, protocol, limit)
    return ChosenTask(task.name, task.kind, task.class_names, taken, labels, protocol, task, unlisted=counts)


def _require_classes(task: TaskConfig, of_class: dict[int, list[ProbeRow]]) -> None:
    """Every class has rows of several patients, so that some are left to score what others fitted."""
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


def _require_mask_classes(task: TaskConfig, rows: Sequence[ProbeRow]) -> None:
    """Masks name their classes; one that none of them names would be scored as drawn nowhere."""
    named = {name for text in {row.mask_classes for row in rows} for name in json.loads(text).values()}
    for name, wanted in task.classes.items():
        if wanted != ["*"] and named.isdisjoint(wanted):
            raise ConfigError(
                f"probe task {task.name}: class {name!r} is made of {wanted}, but the masks there hold only "
                f"{sorted(named)}; check the spelling, organs and sources"
            )


def _organs(rows: Sequence[ProbeRow], protocol: Protocol, limit: int) -> ChosenTask | None:
    """The organ of a row as its class; None where fewer than two organs can be probed."""
    of_organ: dict[str, list[ProbeRow]] = {}
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
    taken, labels = _cut(of_class, protocol, limit)
    return ChosenTask(ORGAN, "classification", names, taken, labels, protocol, left_out=left_out)


def _in_both(rows: Sequence[ProbeRow]) -> bool:
    return len({row.held_out for row in rows}) == 2


def _cut(of_class: dict[int, list[ProbeRow]], protocol: Protocol, limit: int) -> tuple[list[ProbeRow], list[int]]:
    """At most `limit` rows of each class and part, in the order of ids, and their class numbers."""
    taken: list[tuple[str, int, ProbeRow]] = []
    for number, members in of_class.items():
        parts = [[row for row in members if row.held_out is out] for out in (False, True)]
        for part in parts if protocol == "split" else [members]:
            share = limit if protocol == "split" else 2 * limit
            keep = choose_rows([row.group for row in part], [row.id for row in part], share)
            taken += [(part[k].id, number, part[k]) for k in keep]
    taken.sort(key=lambda entry: entry[0])
    return [row for _, _, row in taken], [number for _, number, _ in taken]


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
