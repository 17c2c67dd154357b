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

from ray_jobs import job
from ray_jobs.cluster import connect, require
from ray_jobs.console import Console, following
from ray_jobs.sweep_config import SweepConfig, Trial, trials
from ray_jobs.sweep_ends import begin, end, plan
from ray_jobs.sweep_ledger import Ledger, known, open_ended
from ray_jobs.sweep_table import discard_beaten
from ray_jobs.sweep_tune import TUNE, run_study, run_trials
from usfm.report.downstream.sweep_page import write_sweep_report

__all__ = ["SweepConfig", "main", "plan", "run", "trials"]


def run(config: SweepConfig, console: Console) -> Path:
    """Run what is not done yet; returns the folder with the tables, the report and best/."""
    folder, ledger, planned = Path(config.run_dir).absolute(), Ledger(), trials(config)
    planning = begin(config, planned, console)
    if planning["done"] < planning["trials"]:
        with _cluster(config, console, folder), _progress(config, console, planning["trials"], planned, ledger):
            _run_missing(config, planned, ledger)
    _tidy(config, planned, ledger)
    end(config, known(config, planned, ledger), ledger, console)
    if config.search is None:
        console.say(f"report: {write_sweep_report(folder)}")
    return folder


def _run_missing(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> None:
    waiting = [trial for trial in planned.values() if not ledger.done(trial)]

    def ended() -> None:
        _tidy(config, planned, ledger)

    # trials of one search compete; those of a table do not, and all may run beside each other
    for _, together in groupby(waiting, key=lambda t: (t.config.task.name, t.init) if config.search else None):
        run_trials(config, list(together), ledger, ended)
    for study in open_ended(config):
        run_study(config, study, ledger, ended)


def _tidy(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> None:
    if config.keep == "best":
        discard_beaten(known(config, planned, ledger), ledger)


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
        return ledger.count(known(config, planned, ledger))

    with console.stage("sweep", total, "trials") as stage:
        stage.resume(done())
        with following(lambda: stage.to(done())):
            yield


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; `--resume RUN_DIR` stands for the config that a sweep left in its folder."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", metavar="RUN_DIR")
    asked, arguments = parser.parse_known_args(argv)
    if asked.resume:
        arguments = ["--config", str(Path(asked.resume) / "config.yaml"), f"run_dir={asked.resume}", *arguments]
    return job.main(
        SweepConfig, run, plan, arguments, command="sweep", recipe="label_efficiency_tiny",
        description="Sweep label fractions and initialisations over tasks with Ray Tune, or search "
                    "hyper-parameters; --resume RUN_DIR goes on with a sweep that was interrupted.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
