"""A sweep's scores taken apart: by organ, by source, by further score, and what the trials cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from usfm.errors import ConfigError
from usfm.metrics.intervals import Score
from usfm.metrics.item_scores import item_scores
from usfm.report.downstream.points import mean_score_of_runs, runs_score
from usfm.report.downstream.tables import SweepTables
from usfm.train.rundir import read_config

__all__ = ["cost", "further_scores", "parts"]


def parts(tables: SweepTables, task: str, column: str, fraction: float) -> list[dict[str, Any]]:
    """Score of each initialisation on the test images of each organ or source, mean over seeds.

    Args:
        tables: of the sweep.
        task: name.
        column: "organ" or "source".
        fraction: of the training labels.
    """
    of_task = tables.done[tables.done.task == task]
    metric = str(of_task.metric.iloc[0])
    made = []
    for init in tables.inits:
        runs = tables.runs(task, init, fraction)
        for value in sorted({row[column] for run in runs.values() for row in run}):
            parted = [[row for row in run if row[column] == value] for run in runs.values()]
            chosen = [run for run in parted if run]  # a fold may have none of them
            tested = [row for run in chosen for row in run]
            score = runs_score(metric, tables.task_configs[task].class_names, chosen)
            made.append({
                "task": task, column: value, "init": init, "fraction": fraction, "metric": metric,
                "value": score.value, "low": score.low, "high": score.high, "seeds": len(chosen),
                "test_items": len({row["id"] for row in tested}),
                "test_groups": len({row["group"] for row in tested}),
            })  # fmt: skip
    return made


def further_scores(tables: SweepTables, task: str, fraction: float) -> list[dict[str, Any]]:
    """All scores that the trials wrote: mean, sd (n - 1) over seeds and 95 % interval, by initialisation.

    The interval is that of the curves, from the items of all seeds; NaN for a score that these items do not give.
    """
    rows, config = tables.done, tables.task_configs[task]
    rows = rows[(rows.task == task) & (rows.fraction == fraction)]
    runs = {init: list(tables.runs(task, init, fraction).values()) for init in tables.inits}
    of_items = {
        init: [(item_scores(config.kind, run, config.class_names), run) for run in of_init]
        for init, of_init in runs.items()
    }
    made = []
    for name in (column.removeprefix("score_") for column in rows.columns if column.startswith("score_")):
        for init in tables.inits:
            values = rows[rows.init == init][f"score_{name}"].dropna().to_numpy(float)
            if not len(values):
                continue
            given = [(scores[name], run) for scores, run in of_items[init] if name in scores]
            score = mean_score_of_runs(name, *zip(*given, strict=True)) if given else Score(np.nan, np.nan, np.nan)
            made.append({
                "task": task, "score": name, "init": init, "fraction": fraction, "mean": float(values.mean()),
                "low": score.low, "high": score.high,
                "sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan, "seeds": len(values),
            })  # fmt: skip
    return made


def cost(tables: SweepTables) -> list[dict[str, Any]]:
    """Trials, seconds and image views by task and initialisation; views are NaN where a trial's config is gone."""
    made = []
    for (task, init), rows in tables.done.groupby(["task", "init"], sort=False):
        kept = [bundle for bundle in rows.bundle if bundle]
        views = _views(tables, kept[0]) * len(rows) if kept else np.nan  # they share their steps and batches
        seconds = float(rows.seconds.sum())
        made.append({
            "task": task, "init": init, "network": rows.network.iloc[0], "trials": len(rows), "seconds": seconds,
            "seconds_per_trial": seconds / len(rows), "image_views": views, "views_per_s": views / seconds,
        })  # fmt: skip
    return made


def _views(tables: SweepTables, bundle: str) -> float:
    try:
        values: Mapping[str, Any] = read_config((tables.folder / bundle).parent)
    except ConfigError:
        return float("nan")
    return float(values["steps"] * values["batch_size"])
