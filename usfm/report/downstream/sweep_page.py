"""The report of a sweep: report.html and its tables, from results.parquet, items.parquet and the kept bundles.

    report.html              self-contained page
    tables/points            test score by task, initialisation and label fraction, with intervals
    tables/differences       paired differences between initialisations
    tables/unseen            the same over images that pre-training never saw, where others were tested too
    tables/measured          errors of what the masks measure (circumference in mm), and paired differences
    tables/to_all            paired differences of every point to the one from scratch with all labels
    tables/matches           share of the labels that gives the score from scratch with all
    tables/organs, sources   the same score on the test images of each organ, of each source
    tables/scores            all further scores with all labels
    tables/calibration       how often answers are right, or labels are there, by their probability
    tables/robustness        the score on images made worse
    tables/worst             the worst test images
    tables/cost              trials, seconds, image views

Every table is written as CSV and as Parquet.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from usfm.data.left_out import left_out_text
from usfm.errors import DataError
from usfm.report.downstream.breakdown import cost
from usfm.report.downstream.charts import colours
from usfm.report.downstream.matches import LEAST_SEEDS
from usfm.report.downstream.sweep_task import TABLE_NAMES, TaskPart, task_part
from usfm.report.downstream.tables import SweepTables, read_sweep, write_table
from usfm.report.downstream.words import bounded, reached, readable
from usfm.report.figures import css_colour
from usfm.report.sections import read_json
from usfm.report.template import render
from usfm.train.durable import write_text
from usfm.train.finetune_config import SCRATCH
from usfm.train.inheritance import labels_of_tested

__all__ = ["PAGE", "TABLES", "write_sweep_report"]

PAGE, TABLES = "report.html", "tables"


def write_sweep_report(folder: Path, robustness: bool = True) -> Path:
    """Write the report of a sweep into its folder; returns the page.

    A part whose input is missing (shards, a bundle) is left out, and the page says so.

    Args:
        folder: of the sweep.
        robustness: score one run of each initialisation on test images made worse too: 18 passes over the test set.

    Raises:
        ConfigError: the folder holds no sweep.
        DataError: results.parquet or items.parquet is missing, or no trial has a score.
    """
    tables = read_sweep(folder)
    if not tables.tasks:
        raise DataError(f"{folder}: no trial has a score, there is nothing to report")
    tasks = [task_part(tables, name, robustness) for name in tables.tasks]
    spent = cost(tables)
    for name in TABLE_NAMES:
        write_table(folder / TABLES, name, [row for task in tasks for row in task.tables.get(name, [])])
    write_table(folder / TABLES, "cost", spent)
    own_settings = [init for init in tables.inits if tables.own_settings(init)]
    tuned = tables.config.get("tuned", {})
    searched = {task: [init for init in tables.inits if tuned.get(task, {}).get(init)] for task in tables.tasks}
    before = {task.config.name: _labels_before(tables, task) for task in tasks}
    beyond_split = [task.config.name for task in tasks if task.config.split_by != "split"]
    page = render(
        "sweep.html",
        title=folder.absolute().name,
        tables=tables,
        tasks=tasks,
        absent=[left_out for task in tasks for left_out in task.absent],
        left_out={
            name: left_out_text(of) for name, of in read_json(folder / "plan.json").get("left_out", {}).items()
        },
        cost=spent,
        same_budget=_same_budget(spent),
        colours={init: css_colour(c) for init, c in colours(tables.inits, tables.base).items()},
        readable=readable,
        robustness=robustness,
        reached=reached,
        bounded=bounded,
        least_seeds=LEAST_SEEDS,
        environment=read_json(folder / "environment.json"),
        cached=(folder / "features").is_dir(),
        own_settings=own_settings,
        searched=_of_tasks(searched),
        all_have_settings=all(
            init in (*own_settings, *searched[task.config.name]) for task in tasks for init in task.inits
        ),
        pretrained=[init for init in tables.inits if any(tables.start(of, init) != SCRATCH for of in tables.tasks)],
        labels_before={name: list(of) for name, of in before.items()},
        with_labels=[init for init in tables.inits if any(of.get(init) for of in before.values())],
        perhaps_with_labels=[
            init for init in tables.inits if {of[init] for of in before.values() if init in of} == {None}
        ],
        tuned_beyond_split=[name for name in beyond_split if any(tuned.get(name, {}).values())],
        failed=tables.failed.to_dict("records"),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _of_tasks(inits: Mapping[str, Sequence[str]]) -> str:
    """Initialisations of each task in words; the tasks are named where they differ."""
    if len({tuple(of) for of in inits.values()}) == 1:
        return ", ".join(next(iter(inits.values())))
    return "; ".join(f"{', '.join(of)} ({task})" for task, of in inits.items() if of)


def _labels_before(tables: SweepTables, task: TaskPart) -> dict[str, bool | None]:
    """The starts of a task that learnt from labels of patients that it may test; None = perhaps."""
    name, shards = task.config.name, tables.config["shards"]
    learnt = {init: labels_of_tested(tables.start(name, init), task.config, shards) for init in task.inits}
    return {init: of for init, of in learnt.items() if of is not False}


def _same_budget(spent: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all trials of a task saw as many images; not said where that is not known (NaN)."""
    views: dict[str, set[float]] = {}
    for row in spent:
        views.setdefault(row["task"], set()).add(row["image_views"] / row["trials"])
    return all(len(of_task) == 1 and not math.isnan(*of_task) for of_task in views.values())
