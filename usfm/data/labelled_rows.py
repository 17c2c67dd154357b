"""Rows of shards as a task sees them: which are used, what their label, mask or pair says, and what is refused."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usfm.data.codec import decode_grey
from usfm.data.mask_measures import ellipse_perimeter, foreground_area
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError

__all__ = ["LabelledRow", "choose_labelled", "remap", "unlisted_in_label", "unlisted_in_mask", "unlisted_row"]


@dataclass(frozen=True, eq=False)
class LabelledRow:
    """One row that a task uses.

    Attributes:
        row: the columns of the shard.
        label: class number (classification), else 0.
        target: 0 or 1 per class (multilabel), the number (regression), else empty.
        mask: (H, W) uint8 class numbers of the task (segmentation), else None.
    """

    row: Mapping[str, Any]
    label: int
    target: list[float]
    mask: npt.NDArray[np.uint8] | None


def choose_labelled(
    rows: Sequence[Mapping[str, Any]], task: TaskConfig, sources: Sequence[str] | None
) -> tuple[list[LabelledRow], dict[str, int]]:
    """The rows that a task uses, in their order, and how many are left out for what reason.

    Args:
        rows: of `ROW_SCHEMA`, of the task's organs.
        task: what is asked.
        sources: whose rows are used; None = all.

    Raises:
        DataError: a row that the task refuses (see `TaskConfig.unlisted` and `missing`), a number that cannot be
            read, or a mask with a value that its `mask_classes` do not name; the row is named.
    """
    chosen, left_out = [], Counter[str]()
    for row in rows:
        if sources is not None and row["source"] not in sources:
            continue
        lacking = _missing(row, task)
        if lacking and task.missing == "refuse":
            raise DataError(
                f"task {task.name}: row {row['id']} has no {lacking}; mend it and ingest again, name the sources "
                "that have it, or set missing=leave_out"
            )
        made, unknown = (None, "") if lacking else _read(row, task)
        if unknown and task.unlisted == "refuse":
            raise unlisted_row(task, row["id"], row["label"], unknown)
        if lacking or unknown:
            left_out[f"no {lacking}" if lacking else unknown] += 1
        if made is not None:
            chosen.append(made)
    return chosen, dict(sorted(left_out.items()))


def unlisted_row(task: TaskConfig, row: str, label: str, unknown: str, what: str = "task") -> DataError:
    """The error of a task that refuses what it does not know (`TaskConfig.unlisted`).

    Args:
        task: that refuses.
        row: id of the first such row.
        label: of the row.
        unknown: what of it the task does not know.
        what: asks: "task" or "probe task".
    """
    said = "" if task.kind == "segmentation" else f" says {label!r}"
    return DataError(
        f"{what} {task.name}: row {row}{said}: {unknown}; expected {_expected(task)}. Mend it and ingest again, "
        "list it under a class, name the `sources` that are meant, or give the task `unlisted: leave_out`"
    )


def unlisted_in_label(label: str, task: TaskConfig) -> str:
    """Why the label of a classification's row is of no class; "" = it is of one."""
    listed = any(label in labels for labels in task.classes.values())
    return "" if listed else f"label {label!r} is of no class"


def unlisted_in_mask(names: Mapping[str, str], task: TaskConfig) -> str:
    """What of a segmentation's mask no class names; "" = nothing."""
    listed = {label for labels in task.classes.values() for label in labels}
    strange = sorted(set(names.values()) - listed) if "*" not in listed else []
    return f"its mask has {strange[0]!r}, which no class names" if strange else ""


def _expected(task: TaskConfig) -> str:
    """What labels, or names of mask classes, a task knows."""
    if task.kind == "regression":
        return f"{task.target}=NUMBER, pairs divided by {task.separator!r}"
    where = "a mask class" if task.kind == "segmentation" else "a label"
    classes = "; ".join(f"{name}: {', '.join(map(repr, labels))}" for name, labels in task.classes.items())
    return f"{where} that a class lists ({classes})"


def _missing(row: Mapping[str, Any], task: TaskConfig) -> str:
    """What the row lacks; "" = nothing."""
    if task.needs_mask and row["mask"] is None:
        return "mask"
    if task.needs_pair and row["pair"] is None:
        return "pair (an image of the same view in high quality)"
    if task.needs_spacing and not row["spacing_mm"]:
        return "spacing_mm (the size of a pixel)"
    if task.kind == "regression" and task.needs_mask and not _measured(row, task):
        return f"outline in its mask, so no {task.target}"
    return ""


def _read(row: Mapping[str, Any], task: TaskConfig) -> tuple[LabelledRow | None, str]:
    """What the row says, and what of it the task does not know; None = it says nothing that the task asks for."""
    if task.kind == "enhancement":
        region = None if row["mask"] is None else (decode_grey(row["mask"]) > 0).astype(np.uint8)
        return LabelledRow(row, 0, [], region), ""
    if task.kind == "regression":
        value = _measured(row, task) if task.needs_mask else _stated(row, task)
        return (None, f"no {task.target}=") if value is None else (LabelledRow(row, 0, [value], None), "")
    if task.kind == "segmentation":
        names: dict[str, str] = json.loads(row["mask_classes"] or "{}")
        stored = decode_grey(row["mask"])
        if unnamed := sorted(set(np.unique(stored).tolist()) - {0, *map(int, names)}):
            raise DataError(
                f"task {task.name}: row {row['id']} has a mask with the value {unnamed[0]}, which its mask_classes "
                f"{names} do not name; name it in the source and ingest again"
            )
        return LabelledRow(row, 0, [], remap(stored, names, task)), unlisted_in_mask(names, task)
    class_of = {label: k for k, labels in enumerate(task.classes.values()) for label in labels}
    if task.kind == "classification":
        unknown = unlisted_in_label(row["label"], task)
        return (None, unknown) if unknown else (LabelledRow(row, class_of[row["label"]], [], None), "")
    said = [name.strip() for name in row["label"].split(task.separator) if name.strip()]
    if not said:
        return None, "no label"
    on = {class_of[name] for name in said if name in class_of}
    strange = [name for name in said if name not in class_of]
    target = [float(k in on) for k in range(len(task.classes))]
    return LabelledRow(row, 0, target, None), f"label {strange[0]!r} is of no class" if strange else ""


def _stated(row: Mapping[str, Any], task: TaskConfig) -> float | None:
    """The number in the row's label; None where the label does not have it."""
    for part in row["label"].split(task.separator):
        name, sign, text = part.partition("=")
        if sign and name.strip() == task.target:
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise DataError(
                    f"task {task.name}: row {row['id']} says {row['label']!r}; {text.strip()!r} is not a number. "
                    "Mend the label and ingest again"
                )
            return value
    return None


def _measured(row: Mapping[str, Any], task: TaskConfig) -> float:
    """Perimeter or area of the row's mask in the task's unit."""
    mask = decode_grey(row["mask"])
    spacing = row["spacing_mm"] if task.needs_spacing else 1.0
    if task.target == "mask_perimeter":
        return ellipse_perimeter(mask) * float(spacing)
    return foreground_area(mask) * float(spacing) ** 2


def remap(stored: npt.NDArray[np.uint8], names: Mapping[str, str], task: TaskConfig) -> npt.NDArray[np.uint8]:
    """Mask class numbers of the shard to those of the task; classes that the task does not name are background."""
    table = np.zeros(256, np.uint8)
    for number, wanted in enumerate(task.classes.values(), start=1):
        for stored_number, name in names.items():
            if name in wanted or wanted == ["*"]:
                table[int(stored_number)] = number
    return table[stored]
