"""Label efficiency in numbers: points of the curves and paired differences.

Runs of a task in folds have a test set each; what is said of a cell is said of all their patients together.

Every interval is for other patients and other training runs: bootstrap over the test set's patients of the mean
over seeds, joined with Student's t over the seeds (`usfm.metrics.intervals`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from usfm.metrics.compare import Comparison, compare
from usfm.metrics.intervals import Floats, Score, WeightedScore, weighted_difference
from usfm.metrics.item_scores import Items, bounds, selecting_score
from usfm.report.downstream.tables import SweepTables

__all__ = [
    "Difference",
    "Point",
    "differences",
    "differences_to_all",
    "mean_score_of_runs",
    "pairs",
    "points",
    "runs_score",
    "unseen_differences",
]

DRAWS, SEED = 1000, 0


@dataclass(frozen=True)
class Point:
    """Trials of one task that differ only in the seed.

    Attributes:
        task: name.
        metric: name of the score.
        init: initialisation.
        fraction: of the training labels.
        seeds: of the trials that came to an end.
        values: test score of each seed.
        items: training images of each seed.
        groups: training patients of each seed.
        score: mean over the seeds and its interval.
        tested: test images, over all seeds.
        patients: test patients, over all seeds.
    """

    task: str
    metric: str
    init: str
    fraction: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    items: tuple[int, ...]
    groups: tuple[int, ...]
    score: Score
    tested: int
    patients: int

    def row(self) -> dict[str, Any]:
        """One line of points.csv."""
        return {
            "task": self.task, "init": self.init, "fraction": self.fraction, "metric": self.metric,
            "value": self.score.value, "low": self.score.low, "high": self.score.high, "seeds": len(self.seeds),
            "least": min(self.values), "most": max(self.values), "train_items": float(np.mean(self.items)),
            "train_groups": float(np.mean(self.groups)), "test_items": self.tested, "test_groups": self.patients,
        }  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """Score of `init` minus that of `base`, paired by test patient and by seed.

    Attributes:
        task: name.
        init: initialisation.
        base: the one it is compared with.
        fraction: of the training labels, of `init`.
        base_fraction: the same of `base`.
        comparison: the difference, its interval and two tests of it.
    """

    task: str
    init: str
    base: str
    fraction: float
    base_fraction: float
    comparison: Comparison

    @property
    def score(self) -> Score:
        """Mean difference and its interval."""
        return self.comparison.difference

    @property
    def verdict(self) -> str:
        """One of "better", "worse" and "open" (the interval holds zero, or there is none)."""
        if self.comparison.better:
            return "better"
        return "worse" if self.score.high < 0 or self.score.low > 0 else "open"

    def row(self) -> dict[str, Any]:
        """One line of differences.csv."""
        of = self.comparison
        return {
            "task": self.task, "init": self.init, "base": self.base, "fraction": self.fraction,
            "base_fraction": self.base_fraction, "metric": of.metric, "difference": self.score.value,
            "low": self.score.low, "high": self.score.high, "p_permutation": of.p_permutation,
            "p_wilcoxon": of.p_wilcoxon, "seeds": of.seeds, "test_items": of.items, "test_groups": of.groups,
            "verdict": self.verdict,
        }  # fmt: skip


def points(tables: SweepTables, task: str) -> list[Point]:
    """All points of a task, by initialisation and rising fraction."""
    of_task = tables.done[tables.done.task == task]
    made = []
    for init in tables.inits:
        of_init = of_task[of_task.init == init].sort_values("seed")
        for fraction in sorted({float(value) for value in of_init.fraction}):
            rows, runs = of_init[of_init.fraction == fraction], tables.runs(task, init, fraction)
            tested, metric = [row for run in runs.values() for row in run], str(rows.metric.iloc[0])
            made.append(Point(
                task, metric, init, fraction,
                tuple(int(seed) for seed in rows.seed), tuple(float(value) for value in rows.value),
                tuple(int(n) for n in rows.train_items), tuple(int(n) for n in rows.train_groups),
                runs_score(metric, tables.task_configs[task].class_names, list(runs.values())),
                len({row["id"] for row in tested}), len({row["group"] for row in tested}),
            ))  # fmt: skip
    return made


def pairs(tables: SweepTables) -> list[tuple[str, str]]:
    """What is compared: every initialisation with the one from scratch, the first one with the others too."""
    rest = [init for init in tables.inits if init != tables.base]
    against_base = [(init, tables.base) for init in rest if tables.base is not None]
    return against_base + [(rest[0], other) for other in rest[1:]]


def differences(tables: SweepTables, task: str) -> list[Difference]:
    """Paired differences of a task at every fraction where both sides have a seed in common."""
    return _differences(tables, task, _every)


def differences_to_all(tables: SweepTables, task: str) -> list[Difference]:
    """Every point of the others minus the one from scratch with all labels; none without that one."""
    if tables.base is None:
        return []
    whole = (tables.base, 1.0)
    of_task = tables.done[(tables.done.task == task) & (tables.done.init != tables.base)]
    tried = {(str(init), float(fraction)) for init, fraction in zip(of_task.init, of_task.fraction, strict=True)}
    ordered = sorted(tried, key=lambda point: (tables.inits.index(point[0]), point[1]))
    made = [_difference(tables, task, point, whole, _every) for point in ordered]
    return [of for of in made if of is not None]


def unseen_differences(tables: SweepTables, task: str) -> list[Difference]:
    """The same over the images that ingest held out for validation or test.

    An encoder that was pre-trained on these shards never saw them, not even without their labels. None for a task
    that tests no others (`split_by: split`).
    """
    if tables.task_configs[task].split_by == "split":
        return []
    return _differences(tables, task, _held_out)


def _differences(tables: SweepTables, task: str, keep: Callable[[Mapping[str, Any]], bool]) -> list[Difference]:
    of_task = tables.done[tables.done.task == task]
    made = [
        _difference(tables, task, (init, fraction), (base, fraction), keep)
        for init, base in pairs(tables)
        for fraction in sorted(set(of_task.fraction))
    ]
    return [of for of in made if of is not None]


def _difference(
    tables: SweepTables,
    task: str,
    one: tuple[str, float],
    other: tuple[str, float],
    keep: Callable[[Mapping[str, Any]], bool],
) -> Difference | None:
    """One point minus another one, each an initialisation and a fraction; None = they have no seed in common."""
    first, second = (_kept(tables.runs(task, *point), keep) for point in (one, other))
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    metric = str(tables.done[tables.done.task == task].metric.iloc[0])
    sides = [[runs[seed] for seed in seeds] for runs in (first, second)]
    compared = compare(sides[0], sides[1], metric, tables.task_configs[task].class_names)
    return Difference(task, one[0], other[0], one[1], other[1], compared)


def _every(row: Mapping[str, Any]) -> bool:
    return True


def _held_out(row: Mapping[str, Any]) -> bool:
    """Whether ingest held an item out for validation or test."""
    return bool(row["split"] != "train")


def _kept(runs: Mapping[int, Items], keep: Callable[[Mapping[str, Any]], bool]) -> dict[int, Items]:
    """The runs with some of their items; a run that keeps none is left out."""
    kept = {seed: [row for row in run if keep(row)] for seed, run in runs.items()}
    return {seed: run for seed, run in kept.items() if run}


def runs_score(metric: str, classes: Sequence[str], runs: Sequence[Items]) -> Score:
    """Mean over runs of the selecting score, from the rows of their items; its interval ends where the score does.

    Args:
        metric: one of `usfm.metrics.item_scores.METRIC`.
        classes: of the task, in the order of logits.
        runs: items of each run.
    """
    return mean_score_of_runs(metric, [selecting_score(metric, run, classes) for run in runs], runs)


def mean_score_of_runs(name: str, scores: Sequence[WeightedScore], runs: Sequence[Items]) -> Score:
    """Mean over runs of any score of their items, with the same interval.

    Args:
        name: of the score, see `usfm.metrics.item_scores.bounds`.
        scores: of each run, of its items.
        runs: items of each run.
    """
    nothing = [_nothing] * len(runs)  # a score by itself is its difference to nothing
    score = weighted_difference(scores, nothing, [[row["group"] for row in run] for run in runs], DRAWS, SEED)
    least, most = bounds(name)
    return replace(score, low=float(np.clip(score.low, least, most)), high=float(np.clip(score.high, least, most)))


def _nothing(weights: Floats) -> Floats:
    return np.zeros(len(weights))
