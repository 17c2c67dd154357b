"""Both ends of a sweep, however its trials are run: checks and warnings before the first, tables after the last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.console import Console
from ray_jobs.sweep_config import PLACEMENT, TABLE, SweepConfig, Trial, studies, trials
from ray_jobs.sweep_held import require_grown, require_same
from ray_jobs.sweep_ledger import Ledger, known, open_ended
from ray_jobs.sweep_search import write_best
from ray_jobs.sweep_table import OK, best_trials, keep_best, summarise, write_tables
from usfm.data.labelled_set import LabelledSet
from usfm.data.left_out import left_out, left_out_line
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import UsfmError
from usfm.train.inheritance import labels_of_tested, labels_warning
from usfm.train.rundir import open_run

__all__ = ["begin", "end", "plan"]

BEST = "best.yaml"


def plan(config: SweepConfig) -> dict[str, Any]:
    """What would be run."""
    planned, found, ledger = trials(config), studies(config), Ledger()
    items, left = {}, {}
    for task in config.tasks:
        sets = _first_tested(config, task)
        items[task.name] = {split: len(data) for split, data in sets.items()}
        if counts := left_out(sets, task):
            left[task.name] = counts
    at = (config.fractions[0], config.seeds[0])
    points = config.search.samples if config.search else 0
    drawn = [study.trial(*at) for study in open_ended(config) for _ in range(points)]  # as many, whatever they are
    return {
        "trials": len(planned) + len(drawn),
        "done": ledger.count(known(config, planned, ledger)),
        "items": items,
        "left_out": left,
        "image_views": sum(t.config.steps * t.config.batch_size for t in [*planned.values(), *drawn]),
        "first": next(iter(planned), found[0].trial(*at).name),
    }


def _first_tested(config: SweepConfig, task: TaskConfig) -> dict[str, LabelledSet]:
    """The rows of a task as its first seed has them; every other fold that is tested was checked before."""
    first, *others = {(one := task.of_seed(seed)).fold: one for seed in config.seeds}.values()
    for other in others:
        load_task(config.shards, other)
    return load_task(config.shards, first)


def begin(config: SweepConfig, planned: Mapping[str, Trial], console: Console) -> dict[str, Any]:
    """Refuse what cannot be run, warn of what may be wrong, and open the sweep's folder.

    Args:
        config: of the sweep.
        planned: its trials by name.
        console: for the warnings.

    Returns:
        `plan`.

    Raises:
        UsfmError: a start, a task's rows or what the folder holds already does not allow it.
    """
    folder = Path(config.run_dir).absolute()
    for study in studies(config):
        study.trial(config.fractions[0], config.seeds[0]).config.resolved_encoder()  # said now, not by every trial
    planning = plan(config)
    require_grown(folder, config)
    require_same(planned)
    _warn_of_labels(config, console)
    for name, counts in planning["left_out"].items():
        console.warn(left_out_line(name, counts))
    open_run(folder, config, planning, may_change=PLACEMENT if config.search else (*PLACEMENT, *TABLE))
    return planning


def end(config: SweepConfig, made: Sequence[Trial], ledger: Ledger, console: Console) -> None:
    """Write and print the tables, keep the best bundles; of a search write the best values.

    Args:
        config: of the sweep.
        made: the trials that can be named.
        ledger: which of them are done, and why others are not.
        console: for the summary.

    Raises:
        UsfmError: no trial came to its end.
    """
    folder = Path(config.run_dir).absolute()
    table = write_tables(folder, made, ledger)
    keep_best(folder, made, ledger)
    summarise(table, console, folder)
    if not (table.status == OK).any():
        raise UsfmError(f"no trial of {folder} came to its end; the first says: {table.status.iloc[0]}")
    if config.search is not None:
        best = best_trials(made, ledger, lambda trial: (trial.config.task.name, trial.init))
        write_best(folder / BEST, [(task, init, trial.searched) for (task, init), trial in best.items()])
        console.say(f"best values: {folder / BEST}")


def _warn_of_labels(config: SweepConfig, console: Console) -> None:
    """Labels that anything learnt from before may be those of patients that are tested."""
    found: dict[tuple[str, str, bool | None], list[str]] = {}
    for study in studies(config):
        start = study.trial(config.fractions[0], config.seeds[0]).config.init
        key = (study.init, start, labels_of_tested(start, study.task, config.shards))
        found.setdefault(key, []).append(study.task.name)
    for (init, given, learnt), tasks in found.items():
        if said := labels_warning(f"{init} ({given})", learnt, tasks):
            console.warn(said)
    names = [task.name for task in config.tasks if task.split_by != "split"]
    if tuned := [name for name in names if any(config.tuned.get(name, {}).values())]:
        console.warn(
            f"a search chose `tuned` of {', '.join(tuned)} by labels; in tasks with split_by=folds or source they "
            "may be labels of patients that are tested, and scores too high: leave it out, or use split_by=split "
            "for the search and here"
        )
