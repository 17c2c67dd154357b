"""Label-efficiency sweep with Ray Tune: task x initialisation x label fraction x seed; or a hyper-parameter search.

Each trial is one `usfm.train.finetune` run with its own folder. A trial that is done is not done again, so the same
command (or `usfm sweep --resume RUN_DIR`) goes on with an interrupted sweep; a trial that fails is listed with its
reason and the others go on.

  RUN_DIR/trials/<task>-<init>-<fraction>-<seed>/   one fine-tuning run; `keep` says whose bundles stay
  RUN_DIR/tune/                                     Tune's records; `tensorboard --logdir RUN_DIR/tune` is live
  RUN_DIR/results.csv, results.parquet              one row per trial
  RUN_DIR/items.parquet                             one row per trial and test item
  RUN_DIR/best/<task>/                              the best bundle (usfm.metrics.preference)
  RUN_DIR/report.html, tables/                      curves, differences, worst images (usfm.report.downstream)
  RUN_DIR/features/                                 of frozen encoders (usfm.train.feature_cache)
  RUN_DIR/best.yaml                                 of a search: the best values, for `tuned=` of another sweep
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from ray_jobs import job
from ray_jobs.cluster import connect, require
from ray_jobs.console import Console, following
from ray_jobs.sweep_config import PLACEMENT, TABLE, Study, SweepConfig, Trial, studies, trials
from ray_jobs.sweep_held import require_grown, require_same
from ray_jobs.sweep_search import write_best
from ray_jobs.sweep_table import OK, best_trials, discard_beaten, keep_best, summarise, write_tables
from ray_jobs.sweep_tune import TUNE, Ledger, known_trials, run_study, run_trials
from usfm.data.labelled_set import LabelledSet
from usfm.data.left_out import left_out, left_out_text
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import UsfmError
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.train.inheritance import labels_behind
from usfm.train.rundir import open_run

__all__ = ["SweepConfig", "main", "plan", "run", "trials"]

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
    open_ended = [study.trial(*at) for study in _open_ended(config) for _ in range(config.search.samples)] \
        if config.search else []  # fmt: skip
    return {
        "trials": len(planned) + len(open_ended),
        "done": ledger.count(_known(config, planned, ledger)),
        "items": items,
        "left_out": left,
        "image_views": sum(t.config.steps * t.config.batch_size for t in [*planned.values(), *open_ended]),
        "first": next(iter(planned), found[0].trial(*at).name),
    }


def _first_tested(config: SweepConfig, task: TaskConfig) -> dict[str, LabelledSet]:
    """The rows of a task as its first seed has them; every other fold that is tested was checked before."""
    first, *others = {(one := task.of_seed(seed)).fold: one for seed in config.seeds}.values()
    for other in others:
        load_task(config.shards, other)
    return load_task(config.shards, first)


def run(config: SweepConfig, console: Console) -> Path:
    """Run what is not done yet; returns the folder with the tables, the report and best/."""
    folder, ledger, planned = Path(config.run_dir).absolute(), Ledger(), trials(config)
    for study in studies(config):
        study.trial(config.fractions[0], config.seeds[0]).config.resolved_encoder()  # said now, not by every trial
    planning = plan(config)
    require_grown(folder, config)
    require_same(planned)
    _warn_of_labels(config, console)
    for name, counts in planning["left_out"].items():
        console.warn(f"task {name} leaves out: {left_out_text(counts)}")
    open_run(folder, config, planning, may_change=PLACEMENT if config.search else (*PLACEMENT, *TABLE))
    if planning["done"] < planning["trials"]:
        with _cluster(config, console, folder), _progress(config, console, planning["trials"], planned, ledger):
            _run_missing(config, planned, ledger)
    _tidy(config, planned, ledger)
    made = _known(config, planned, ledger)
    table = write_tables(folder, made, ledger)
    keep_best(folder, made, ledger)
    summarise(table, console, folder)
    if not (table.status == OK).any():
        raise UsfmError(f"no trial of {folder} came to its end; the first says: {table.status.iloc[0]}")
    if config.search is None:
        console.say(f"report: {write_sweep_report(folder)}")
    else:
        best = best_trials(made, ledger, lambda trial: (trial.config.task.name, trial.init))
        write_best(folder / BEST, [(task, init, trial.searched) for (task, init), trial in best.items()])
        console.say(f"best values: {folder / BEST}")
    return folder


def _warn_of_labels(config: SweepConfig, console: Console) -> None:
    """In folds all patients are tested, so labels that anything learnt from before may be theirs."""
    in_folds = [study for study in studies(config) if study.task.split_by == "folds"]
    starts: dict[str, set[str]] = {}
    for study in in_folds:
        trial = study.trial(config.fractions[0], config.seeds[0])
        starts.setdefault(study.init, set()).add(trial.config.init)
    what = "; in tasks with split_by=folds they may be labels of patients that are tested, and scores too high:"
    for init, sources in starts.items():
        if (behind := labels_behind(sources)) is not False:
            how = (
                "learnt from labels" if behind else "may have learnt from labels (what it began from is not known)"
            )
            where = ", ".join(sorted(sources))
            console.warn(f"{init} ({where}) {how}{what} start from a pre-training run, or use split_by=split")
    names = dict.fromkeys(study.task.name for study in in_folds)
    if tuned := [name for name in names if any(config.tuned.get(name, {}).values())]:
        told = f"a search chose `tuned` of {', '.join(tuned)} by labels"
        console.warn(f"{told}{what} leave it out, or use split_by=split for the search and here")


def _run_missing(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> None:
    waiting = [trial for trial in planned.values() if not ledger.done(trial)]

    def ended() -> None:
        _tidy(config, planned, ledger)

    # trials of one search compete; those of a table do not, and all may run beside each other
    for _, together in groupby(waiting, key=lambda t: (t.config.task.name, t.init) if config.search else None):
        run_trials(config, list(together), ledger, ended)
    for study in _open_ended(config):
        run_study(config, study, ledger, ended)


def _tidy(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> None:
    if config.keep == "best":
        discard_beaten(_known(config, planned, ledger), ledger)


def _open_ended(config: SweepConfig) -> list[Study]:
    """The studies whose points are chosen while they run."""
    return studies(config) if config.search is not None and config.search.algorithm == "optuna" else []


def _known(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> list[Trial]:
    """The trials that can be named now."""
    return [*planned.values(), *(t for study in _open_ended(config) for t in known_trials(config, study, ledger))]


@contextmanager
def _cluster(config: SweepConfig, console: Console, folder: Path) -> Iterator[None]:
    with connect(config.cluster, console.verbose) as dashboard:
        share = max(1, config.workers_per_trial) * config.max_concurrent
        if config.workers_per_trial:  # drivers that hold some workers and wait for others would wait for ever
            require(config.cpus_per_trial * share, config.gpus_per_trial * share)
        else:
            require(config.cpus_per_trial, config.gpus_per_trial)
        live = [f"http://{dashboard}"] if dashboard else []
        console.say(f"live: {', '.join([*live, f'tensorboard --logdir {folder / TUNE}'])}")
        yield


@contextmanager
def _progress(
    config: SweepConfig, console: Console, total: int, planned: Mapping[str, Trial], ledger: Ledger
) -> Iterator[None]:
    def done() -> int:
        return ledger.count(_known(config, planned, ledger))

    with console.stage("sweep", total, "trials") as stage:
        stage.resume(done())
        with following(lambda: stage.to(done())):
            yield


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; `--resume RUN_DIR` stands for the config that a sweep left in its folder."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", metavar="RUN_DIR")
    known, arguments = parser.parse_known_args(argv)
    if known.resume:
        arguments = ["--config", str(Path(known.resume) / "config.yaml"), f"run_dir={known.resume}", *arguments]
    return job.main(
        SweepConfig, run, plan, arguments, command="sweep", recipe="label_efficiency_tiny",
        description="Sweep label fractions and initialisations over tasks with Ray Tune, or search "
                    "hyper-parameters; --resume RUN_DIR goes on with a sweep that was interrupted.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
