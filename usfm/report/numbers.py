"""The numbers of a report: what the run did, what the labels gave."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "OrganShare",
    "Point",
    "Training",
    "Trial",
    "label_efficiency",
    "organ_mix",
    "paired_difference",
    "read_trials",
    "row_percentages",
    "running_mean",
    "training_summary",
]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class OrganShare:
    """One organ of the mix; shares are in [0, 1], `repeats` is samples drawn per stored row."""

    organ: str
    rows: int
    natural: float
    planned: float
    drawn: int
    achieved: float
    repeats: float


def organ_mix(rows: Mapping[str, int], planned: Mapping[str, float], journal: Iterable[Row]) -> list[OrganShare]:
    """Natural, planned and achieved share of each organ.

    Args:
        rows: stored rows by organ in the split that was drawn from.
        planned: shares of the sample plan.
        journal: rows of metrics.jsonl; their `organ_count` are added up.
    """
    drawn = dict.fromkeys(rows, 0)
    for row in journal:
        for organ, count in row["organ_count"].items():
            drawn[organ] = drawn.get(organ, 0) + count
    stored, total = sum(rows.values()), sum(drawn.values())
    return [
        OrganShare(
            organ, rows.get(organ, 0), rows.get(organ, 0) / stored, planned.get(organ, 0.0), count,
            count / total if total else 0.0, count / rows[organ] if rows.get(organ) else math.nan,
        )
        for organ, count in drawn.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A run in numbers.

    Attributes:
        steps: optimizer steps.
        images: samples drawn, repeats included.
        seconds: sum of the times of all steps, without start-up and checkpoints.
        window: steps of the running mean in the charts.
        terms: (name, first step, mean of the last quarter, last step) of the losses and the gradient norm.
        rate: images per second, (median over steps, mean over the run).
        wait: share of a step spent waiting for data, (median over steps, mean over the time of the run).
        organ_loss: mean spatial loss of the last quarter by organ, weighted by samples.
    """

    steps: int
    images: int
    seconds: float
    window: int
    terms: list[tuple[str, float, float, float]]
    rate: tuple[float, float]
    wait: tuple[float, float]
    organ_loss: dict[str, float]


def training_summary(journal: Sequence[Row]) -> Training:
    """Numbers of a run from its metrics; `journal` is not empty."""
    samples = np.diff([0, *(row["samples"] for row in journal)])
    seconds = samples / np.array([row["images_per_s"] for row in journal])
    waits = np.array([row["data_wait"] for row in journal])
    late = journal[len(journal) - max(1, len(journal) // 4) :]
    terms = [
        (name, journal[0][name], statistics.fmean(row[name] for row in late), journal[-1][name])
        for name in ("loss", "spatial", "frequency", "grad_norm")
    ]
    sums: dict[str, list[float]] = {}
    for row in late:
        for organ, loss in row["organ_loss"].items():
            total = sums.setdefault(organ, [0.0, 0.0])
            total[0] += loss * row["organ_count"][organ]
            total[1] += row["organ_count"][organ]
    return Training(
        steps=len(journal), images=int(samples.sum()), seconds=float(seconds.sum()),
        window=max(1, len(journal) // 20), terms=terms,
        rate=(float(np.median(samples / seconds)), float(samples.sum() / seconds.sum())),
        wait=(float(np.median(waits)), float((waits * seconds).sum() / seconds.sum())),
        organ_loss={organ: loss / count for organ, (loss, count) in sorted(sums.items())},
    )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One row of a sweep's results.csv; `value` is on the test set, NaN where the trial failed."""

    task: str
    kind: str
    init: str
    fraction: float
    seed: int
    train_items: int
    train_groups: int
    metric: str
    value: float
    status: str


def read_trials(path: Path) -> list[Trial]:
    """The rows of results.csv; columns that a failed trial left empty are NaN or 0."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Trial(
                row["task"], row["kind"], row["init"], float(row["fraction"]), int(row["seed"]),
                int(float(row["train_items"] or 0)), int(float(row["train_groups"] or 0)), row["metric"],
                float(row["value"] or math.nan), row["status"],
            )
            for row in csv.DictReader(stream)
        ]  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Trials of one task that differ only in the seed: their test values, in the order of `seeds`."""

    task: str
    metric: str
    init: str
    fraction: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    items: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation (n - 1) over seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def label_efficiency(trials: Iterable[Trial]) -> dict[str, list[Point]]:
    """Points by task, in the order of init and fraction; trials that failed are left out."""
    cells: dict[tuple[str, str, str, float], list[Trial]] = {}
    for trial in trials:
        if trial.status == "ok":
            cells.setdefault((trial.task, trial.metric, trial.init, trial.fraction), []).append(trial)
    points: dict[str, list[Point]] = {}
    for key in sorted(cells):
        of_seed = sorted(cells[key], key=lambda t: t.seed)
        columns = zip(*((t.seed, t.value, t.train_items, t.train_groups) for t in of_seed), strict=True)
        points.setdefault(key[0], []).append(Point(*key, *columns))
    return points


def paired_difference(points: Sequence[Point], init: str, base: str) -> dict[float, tuple[float, ...]]:
    """By label fraction, value of `init` minus value of `base` for each seed that has both."""
    of: dict[str, dict[float, dict[int, float]]] = {init: {}, base: {}}
    for point in points:
        if point.init in of:
            of[point.init][point.fraction] = dict(zip(point.seeds, point.values, strict=True))
    pairs = {
        fraction: tuple(values[seed] - of[base].get(fraction, {})[seed]
                        for seed in sorted(values) if seed in of[base].get(fraction, {}))
        for fraction, values in sorted(of[init].items())
    }  # fmt: skip
    return {fraction: pair for fraction, pair in pairs.items() if pair}


def row_percentages(confusion: Sequence[Sequence[int]]) -> list[list[float]]:
    """Counts (K, K) with truth in rows as percent of each row; an empty row is all zero."""
    return [[100 * n / sum(row) if sum(row) else 0.0 for n in row] for row in confusion]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means
