"""What a mask measures, a circumference in mm: mean errors of every initialisation, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from usfm.metrics.compare import Comparison, compare
from usfm.metrics.intervals import Score
from usfm.metrics.item_scores import Items
from usfm.report.downstream.points import runs_score
from usfm.report.downstream.tables import SweepTables

__all__ = ["Measured", "measured"]

METRIC = "mae"
COMPARED = ("difference", "difference_low", "difference_high", "p_permutation")


@dataclass(frozen=True)
class Measured:
    """Trials of one task that differ only in the seed.

    Attributes:
        task: name.
        init: initialisation.
        fraction: of the training labels.
        error: mean of |measured - true|, in mm, over the test images whose pixel size is known; a mask without a
            region measures 0. Its interval is that of the curves.
        comparison: with the initialisation that others are compared with, paired; None for itself, or without one.
    """

    task: str
    init: str
    fraction: float
    error: Score
    comparison: Comparison | None

    def row(self) -> dict[str, Any]:
        """One line of measured.csv."""
        of = self.comparison
        compared = (
            (of.difference.value, of.difference.low, of.difference.high, of.p_permutation) if of else (None,) * 4
        )
        return {
            "task": self.task, "init": self.init, "fraction": self.fraction, "error_mm": self.error.value,
            "low": self.error.low, "high": self.error.high,
            **dict(zip(COMPARED, compared, strict=True)),
        }  # fmt: skip


def measured(tables: SweepTables, task: str) -> dict[float, dict[str, Measured]]:
    """Errors by rising fraction and by initialisation; {} for a task that measures nothing."""
    of_task = tables.done[tables.done.task == task]
    made: dict[float, dict[str, Measured]] = {}
    if tables.task_configs[task].measure is None:
        return made
    for fraction in sorted({float(value) for value in of_task.fraction}):
        runs = {init: _errors(tables.runs(task, init, fraction)) for init in tables.inits}
        made[fraction] = {
            init: Measured(
                task, init, fraction, runs_score(METRIC, (), list(of_init.values())),
                _against(of_init, runs[tables.base]) if tables.base not in (None, init) else None,
            )
            for init, of_init in runs.items()
            if of_init
        }  # fmt: skip
    return made


def _errors(runs: Mapping[int, Items]) -> dict[int, Items]:
    """Items with their error as `value`, by seed; those of unknown pixel size are left out."""
    made = {
        seed: [
            {**row, "value": abs(row["circumference_mm"] - row["circumference_truth_mm"])}
            for row in run
            if "circumference_mm" in row
        ]
        for seed, run in runs.items()
    }
    return {seed: run for seed, run in made.items() if run}


def _against(first: Mapping[int, Items], second: Mapping[int, Items]) -> Comparison | None:
    seeds: Sequence[int] = sorted(set(first) & set(second))
    if not seeds:
        return None
    return compare([first[seed] for seed in seeds], [second[seed] for seed in seeds], METRIC)
