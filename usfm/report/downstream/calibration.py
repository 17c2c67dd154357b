"""Calibration: whether probabilities mean what they say, of classes and of several labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from usfm.kinds import TaskKind
from usfm.metrics.classification import reliability
from usfm.metrics.intervals import Floats
from usfm.metrics.item_scores import Items, column
from usfm.report.downstream.charts import LEAST_ANSWERS, Claimed, reliability_chart
from usfm.report.downstream.tables import SweepTables

__all__ = ["CLAIMED", "Calibration", "calibration", "calibration_words", "stated_and_true"]

CLAIMED: Mapping[TaskKind, Claimed] = {"classification": "answers", "multilabel": "labels"}
"""What is given with a probability, of the kinds that give any: the answer, or that a label is there."""


@dataclass(frozen=True)
class Calibration:
    """Reliability of every initialisation with the most labels, seeds pooled.

    Attributes:
        claimed: see `CLAIMED`.
        words: what the diagram shows.
        chart: the diagram.
        means: (initialisation, mean probability, share that is true).
        rows: the bins.
    """

    claimed: Claimed
    words: str
    chart: Markup
    means: list[tuple[str, float, float]]
    rows: list[dict[str, Any]]


def calibration(tables: SweepTables, task: str, inits: Sequence[str], fraction: float) -> Calibration | None:
    """Of one task of a sweep; None for a kind without probabilities.

    Args:
        tables: of the sweep.
        task: name.
        inits: what it was trained from.
        fraction: of the training labels.
    """
    config = tables.task_configs[task]
    if config.kind not in CLAIMED:
        return None
    claimed = CLAIMED[config.kind]
    bins, means, rows = {}, [], []
    for init in inits:
        items = [item for run in tables.runs(task, init, fraction).values() for item in run]
        if not items:
            continue
        stated, true = stated_and_true(config.kind, items, config.class_names)
        bins[init] = reliability(stated, true > 0.5)
        means.append((init, float(stated.mean()), float(true.mean())))
        rows += [{"task": task, "init": init, "fraction": fraction, **of} for of in bins[init]]
    chart = reliability_chart(bins, tables.inits, tables.base, task, claimed)
    return Calibration(claimed, calibration_words(claimed), chart, means, rows)


def stated_and_true(kind: TaskKind, items: Items, classes: Sequence[str]) -> tuple[Floats, Floats]:
    """Stated probabilities and whether what they were stated of is true (0 or 1), each (n,).

    Args:
        kind: one of `CLAIMED`. With several labels n is items x labels: what is stated of each is that it is there.
        items: rows of an evaluation.
        classes: names in the order of logits.
    """
    if kind == "multilabel":
        stated, true = (np.concatenate([column(items, f"{of}_{name}") for name in classes]) for of in ("p", "t"))
        return stated, true
    right = np.array([item["truth"] == item["predicted"] for item in items], np.float64)
    return column(items, "probability"), right


def calibration_words(claimed: Claimed) -> str:
    """What the diagram shows, for its caption."""
    above = {
        "answers": "how often answers are right that are given with some probability",
        "labels": "how often a label is there that is given some probability, all labels pooled (the calibration "
        "error among the scores is a mean over labels)",
    }[claimed]
    return (
        f"Above: {above}; on the dashed line probabilities mean what they say, below it they promise too much. "
        f"The larger a mark, the more {claimed}; fewer than {LEAST_ANSWERS} have none. Below: how often each "
        "probability is stated."
    )
