"""Labelled tasks from shards: decoded rows of each split, or fold."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from usfm.data.codec import decode_grey
from usfm.data.folds import deal, dealt_digest, parts
from usfm.data.fractions import strata
from usfm.data.labelled_rows import LabelledRow, choose_labelled
from usfm.data.labelled_set import LabelledSet
from usfm.data.schema import SPLITS
from usfm.data.shard_reader import ShardReader
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError

__all__ = ["dealing", "load_folds", "load_split", "load_task"]


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
