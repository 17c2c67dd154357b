"""Labelled tasks from shards: decoded rows of each split, and nested label fractions that never cut a patient."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from usfm.data.codec import decode_grey
from usfm.data.folds import deal, dealt_digest, parts
from usfm.data.labelled_rows import LabelledRow, choose_labelled
from usfm.data.schema import SPLITS
from usfm.data.shard_reader import ShardReader
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError

__all__ = [
    "LabelledSet",
    "TaskConfig",
    "dealing",
    "fraction_rows",
    "label_fraction",
    "load_folds",
    "load_split",
    "load_task",
    "strata",
]


@dataclass(frozen=True)
class LabelledSet:
    """The rows of one part of a task (train, val or test), decoded.

    Attributes:
        ids: row ids.
        groups: patient keys; a row whose patient is not known is its own group.
        image: (n, S, S) uint8 canvases.
        height: (n,) int64, px of the image on its canvas.
        width: (n,) int64.
        label: (n,) int64 class numbers (classification), else all zero.
        target: (n, T) float32: 0 or 1 per class (multilabel), or the number in its unit (regression, T = 1);
            else T = 0.
        mask: (n, S, S) uint8 class numbers (segmentation); 1 = the region that the row's mask shows, all 0 where it
            has none (enhancement, where contrast is measured between regions); else empty.
        pair: (n, S, S) uint8 canvases of the image in high quality (enhancement with real pairs), else empty.
        organs: organ of each row.
        sources: source of each row.
        licences: licence of each row.
        splits: split of each row in the shards; pre-training saw the images of "train", without labels.
        spacing_mm: (n,) float64 mm per pixel, NaN where not known.
        left_out: how many rows (multilabel: or single names) the task does not use, by reason; of a task in folds
            the same for every part, of all its rows (`usfm.data.left_out`).
    """

    ids: list[str]
    groups: list[str]
    image: npt.NDArray[np.uint8]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    target: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    pair: npt.NDArray[np.uint8]
    organs: list[str]
    sources: list[str]
    licences: list[str]
    splits: list[str]
    spacing_mm: npt.NDArray[np.float64]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64]) -> "LabelledSet":
        """Some of the rows, copied; `left_out` stays that of all."""

        def of(values: Any) -> Any:
            if isinstance(values, np.ndarray):
                return values[rows] if len(values) else values  # of masks or pairs that the task does not have
            return [values[row] for row in rows] if isinstance(values, list) else values

        return LabelledSet(**{name: of(values) for name, values in vars(self).items()})

    def view_scale(self, task: TaskConfig) -> npt.NDArray[np.float64]:
        """(n,) what a network's answer for each whole image is multiplied by to be the target."""
        sides = np.sqrt(self.height * self.width)
        return np.array([task.view_scale(s, mm) for s, mm in zip(sides, self.spacing_mm, strict=True)], np.float64)


def load_task(shards: str, task: TaskConfig) -> dict[str, LabelledSet]:
    """Train, val and test of a task. Decoded once per process, for all folds; treat the arrays as read-only.

    Raises:
        DataError: a row that the task refuses (it is named), a class without rows in the training split, an empty
            split, one on which the selecting score is not defined, or fewer patients than folds.
        ShardError: shards are missing or hold none of the organs.
    """
    return (_load_fold if task.split_by == "folds" else _load)(shards, task.model_dump_json())


def load_folds(shards: str, task: TaskConfig) -> tuple[LabelledSet, dict[str, npt.NDArray[np.int64]]]:
    """Every row of a task in folds, and which of them are train, val and test at the task's `fold`.

    Raises:
        DataError: as of `load_task`.
        ShardError: as of `load_task`.
    """
    every, number = _dealt(shards, task)
    return every, parts(number, task.fold, task.folds)


def dealing(shards: str, task: TaskConfig) -> str:
    """Digest of a task's folds (`usfm.data.folds.dealt_digest`): shards with other rows deal their patients anew.

    Raises:
        DataError: as of `load_task`.
        ShardError: as of `load_task`.
    """
    every, number = _dealt(shards, task)
    return dealt_digest(every.ids, number)


def load_split(shards: str, task: TaskConfig, split: str) -> LabelledSet:
    """The rows of one split alone, for scoring on shards that may lack the others, or some classes.

    Args:
        shards: folder that `usfm ingest` wrote.
        task: which rows.
        split: one of `usfm.data.schema.SPLITS`, or "all".

    Raises:
        DataError: a row that the task refuses (it is named), or no rows.
        ShardError: shards are missing or hold none of the organs.
    """
    if task.split_by == "folds" and split != "all":
        every, rows = load_folds(shards, task)
        return every.take(rows[split])
    return _decode(*_choose(ShardReader(shards), shards, task, split))


@lru_cache(maxsize=4)
def _load(shards: str, task_json: str) -> dict[str, LabelledSet]:
    task, reader = TaskConfig.model_validate_json(task_json), ShardReader(shards)
    return _checked({split: _decode(*_choose(reader, shards, task, split)) for split in SPLITS}, task, shards)


@lru_cache(maxsize=1)  # copies of rows; trials take turns at folds, and one trial asks several times
def _load_fold(shards: str, task_json: str) -> dict[str, LabelledSet]:
    task = TaskConfig.model_validate_json(task_json)
    every, rows = load_folds(shards, task)
    where = f"{shards} (fold {task.fold} of {task.folds})"
    return _checked({split: every.take(of_split) for split, of_split in rows.items()}, task, where)


def _dealt(shards: str, task: TaskConfig) -> tuple[LabelledSet, npt.NDArray[np.int64]]:
    """`_deal`, which is the same whatever fold is tested."""
    return _deal(shards, task.model_copy(update={"fold": 0}).model_dump_json())


@lru_cache(maxsize=4)
def _deal(shards: str, task_json: str) -> tuple[LabelledSet, npt.NDArray[np.int64]]:
    """Every row, and its fold."""
    task = TaskConfig.model_validate_json(task_json)
    chosen, _, left_out = _choose(ShardReader(shards), shards, task, "all")
    every = _decode(chosen, task, left_out)
    patients = [one.row["group"] for one in chosen]
    return every, deal(patients, strata(every, task), task.folds, f"task {task.name} in {shards}")


def _checked(sets: dict[str, LabelledSet], task: TaskConfig, where: str) -> dict[str, LabelledSet]:
    _require_classes(sets["train"], task, where)
    for split in ("val", "test"):
        _require_both(sets[split], task, f"{split} rows in {where}")
    return sets


def _choose(
    reader: ShardReader, shards: str, task: TaskConfig, split: str
) -> tuple[list[LabelledRow], TaskConfig, dict[str, int]]:
    """The arguments of `_decode`: the rows of a split, the task, and how many rows are left out."""
    sources, splits = task.sources, SPLITS if split == "all" else (split,)
    if task.split_by == "source" and split == "test":
        sources, splits = task.test_sources, SPLITS
    elif task.split_by == "source":
        sources = task.train_sources if split != "all" else [*task.train_sources, *task.test_sources]
    files = [f for f in reader.index.files if f.split in splits and f.organ in task.organs]
    chosen, left_out = choose_labelled(reader.table(files).to_pylist(), task, sources)
    if not chosen:
        asked = f"with {list(task.classes)} " if task.classes else ""
        raise DataError(
            f"task {task.name}: no {split} rows {asked}in {shards}; check organs, sources and classes against "
            "`usfm ingest`'s table, or change split.seed"
        )
    return chosen, task, left_out


def _require_classes(train: LabelledSet, task: TaskConfig, where: str) -> None:
    """A class that no training row shows cannot be learnt; nor, of several labels, one that every row shows."""
    instead = "add patients, list further labels under it, or leave it out"
    if task.split_by == "folds":
        instead += "; or set fewer folds, or in a sweep seeds that test others"
    if task.kind == "multilabel":
        counts = train.target.sum(axis=0)
        for name, count in zip(task.class_names, counts, strict=True):
            if count in (0, len(train)):
                which = "no training rows" if count == 0 else "no training rows without it"
                raise DataError(f"task {task.name}: class {name!r} has {which} in {where}; {instead}")
        return
    present = np.unique(train.mask) if task.kind == "segmentation" else np.unique(train.label)
    for number, name in enumerate(task.class_names):
        if number not in present:
            raise DataError(f"task {task.name}: class {name!r} has no training rows in {where}; {instead}")


def _require_both(scored: LabelledSet, task: TaskConfig, which: str) -> None:
    """AUROC selects: known before the first step rather than after the last one."""
    if task.kind == "multilabel" and not (scored.target.min(axis=0) < scored.target.max(axis=0)).any():
        raise DataError(
            f"task {task.name}: none of {task.class_names} has {which} both with and without it, so there is no "
            "AUROC; add patients, change split.seed, or set other classes"
        )


def _decode(chosen: Sequence[LabelledRow], task: TaskConfig, left_out: dict[str, int]) -> LabelledSet:
    size, count = task.canvas_px, len(chosen)
    image = np.zeros((count, size, size), np.uint8)
    masked = task.kind in ("segmentation", "enhancement")
    mask = np.zeros((count if masked else 0, size, size), np.uint8)
    pair = np.zeros((count if task.needs_pair else 0, size, size), np.uint8)
    for n, one in enumerate(chosen):
        height, width = one.row["height"], one.row["width"]
        if max(height, width) > size:
            raise DataError(f"{one.row['id']} has {width} x {height} px; set canvas_px to {max(height, width)}")
        image[n, :height, :width] = decode_grey(one.row["image"])
        if one.mask is not None:
            mask[n, :height, :width] = one.mask
        if task.needs_pair:
            pair[n, :height, :width] = decode_grey(one.row["pair"])
    rows = [one.row for one in chosen]
    return LabelledSet(
        ids=[row["id"] for row in rows],
        groups=[row["group"] or row["id"] for row in rows],
        image=image,
        height=np.array([row["height"] for row in rows], np.int64),
        width=np.array([row["width"] for row in rows], np.int64),
        label=np.array([one.label for one in chosen], np.int64),
        target=np.array([one.target for one in chosen], np.float32).reshape(count, -1),
        mask=mask,
        pair=pair,
        organs=[row["organ"] for row in rows],
        sources=[row["source"] for row in rows],
        licences=[row["licence"] for row in rows],
        splits=[row["split"] for row in rows],
        spacing_mm=np.array([row["spacing_mm"] or np.nan for row in rows], np.float64),
        left_out=left_out,
    )


def strata(data: LabelledSet, task: TaskConfig) -> list[str]:
    """What a label fraction keeps the shares of: classes, combinations of classes, or else sources."""
    if task.kind == "classification":
        return [str(k) for k in data.label]
    if task.kind == "multilabel":
        return ["".join(str(int(on)) for on in row) for row in data.target]
    return data.sources


def fraction_rows(train: LabelledSet, task: TaskConfig, fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """Rows of a training set that belong to a label fraction, ascending; see `label_fraction`."""
    chosen = label_fraction(train.groups, strata(train, task), fraction, seed, _classes_shown(train, task))
    return chosen.nonzero()[0]


def _classes_shown(data: LabelledSet, task: TaskConfig) -> list[list[int]]:
    """Numbers of the classes that each row shows; [] for a task without classes."""
    if task.kind == "classification":
        return [[int(k)] for k in data.label]
    if task.kind == "multilabel":
        return [np.flatnonzero(row).tolist() for row in data.target]
    if task.kind == "segmentation":
        return [np.flatnonzero(np.bincount(mask.ravel())).tolist() for mask in data.mask]
    return []


def label_fraction(
    groups: Sequence[str], strata: Sequence[str], fraction: float, seed: int, shown: Sequence[Sequence[int]] = ()
) -> npt.NDArray[np.bool_]:
    """Rows that belong to a label fraction: whole groups, stratified, nested.

    Within each stratum groups are ordered by a hash of (seed, group) and the first ceil(fraction n) are taken, so
    the 5 % set lies inside the 10 % set of the same seed, and every stratum keeps at least one group. A class that
    no group of these shows (it may be nowhere the most frequent one) brings in the group that would show it first.

    Args:
        groups: group of each row.
        strata: stratum of each row (class or source); a group belongs to its most frequent one.
        fraction: in (0, 1].
        seed: which nested family of sets.
        shown: classes of each row, every one of which has to be there; () = nothing is asked for.

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
    drawn = {group: hashlib.blake2b(f"{seed}\x1f{group}".encode()).digest() for group in votes}
    entry: dict[str, tuple[float, bytes]] = {}  # the fraction above which a group is taken
    for of_stratum in members.values():
        ordered = sorted(of_stratum, key=drawn.__getitem__)
        taken.update(ordered[: math.ceil(round(fraction * len(ordered), 9))])
        entry |= {group: (place / len(ordered), drawn[group]) for place, group in enumerate(ordered)}
    first: dict[int, str] = {}
    for group, classes in zip(groups, shown, strict=bool(shown)):
        for number in classes:
            first[number] = min(first.get(number, group), group, key=lambda g: entry[g])
    # whatever the fraction is, so that the sets stay nested
    taken.update(first.values())
    return np.array([group in taken for group in groups], dtype=np.bool_)
