"""A sweep's trials in plain processes on this machine, without Ray: the same trials, and the same tables of them.

    python tests/benchmarks/sweep_in_processes.py --config label_efficiency_small --processes 12

For a GPU machine that has no Ray, and for what Tune adds to a sweep. It checks, warns and refuses as `usfm sweep`
does before the first trial. A trial that is done is not done again, and one that fails, for whatever reason, is
listed with it; a process that is killed takes the trials that wait with it, and the same command again goes on.
Unlike `usfm sweep` it keeps every bundle, retries nothing, computes no features once for all trials, and writes
results.csv, items.parquet and best/, but no report. Of a search only the random one without a scheduler, whose
points are known before it starts and all come to their end; it leaves `best.yaml`. Keys that place trials on Ray
(`max_concurrent`, `workers_per_trial`, `cluster` and the like) are not used. Exit status: 0 a trial has a result,
1 none has or the sweep is refused (the reason is said), 2 the command line or the search is not for this script.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ray_jobs.console import Console  # noqa: E402
from ray_jobs.job import recipe_path  # noqa: E402
from ray_jobs.sweep_config import SweepConfig, trials  # noqa: E402
from ray_jobs.sweep_ends import begin, end  # noqa: E402
from ray_jobs.sweep_ledger import Ledger  # noqa: E402
from usfm.config import load_config  # noqa: E402
from usfm.errors import UsfmError  # noqa: E402
from usfm.train.context import PlainContext  # noqa: E402
from usfm.train.finetune import finetune  # noqa: E402
from usfm.train.finetune_config import FinetuneConfig  # noqa: E402
from usfm.train.rundir import open_run  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 = no trial has a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="name of a recipe, or a YAML file")
    parser.add_argument("--processes", type=int, default=2, help="trials beside each other")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no trial after so long")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    console = Console()
    try:
        config = load_config(SweepConfig, recipe_path(options.config), options.overrides)
        if config.search is not None and (config.search.algorithm, config.search.scheduler) != ("random", "fifo"):
            parser.error("a search by Optuna, or with scheduler asha, needs `usfm sweep`")
        _sweep(config, options.processes, options.seconds, console)
    except UsfmError as error:
        console.error(str(error))
        return 1
    return 0


def _sweep(config: SweepConfig, processes: int, seconds: float, console: Console) -> None:
    planned, ledger, began = trials(config), Ledger(), time.monotonic()
    begin(config, planned, console)
    waiting = [trial for trial in planned.values() if not ledger.done(trial)]
    last = time.time() + seconds
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        jobs = {pool.submit(_run, trial.config.model_dump(mode="json"), last): trial for trial in waiting}
        for number, job in enumerate(as_completed(jobs), 1):
            name, reason = jobs[job].name, reason_of(job)
            if reason:
                ledger.failures[name] = reason
            print(f"{time.monotonic() - began:6.0f} s  {number}/{len(jobs)}  {name} {reason}", flush=True)
    print(f"{len(waiting)} trials, {processes} at a time, {time.monotonic() - began:.0f} s", flush=True)
    end(config, list(planned.values()), ledger, console)


def reason_of(job: "Future[str]") -> str:
    """Why the trial of an ended job has no result, "" if it has one."""
    error = job.exception()
    if isinstance(error, BrokenProcessPool):
        return "a process was killed, by a lack of memory perhaps; the same command again goes on"
    return job.result() if error is None else f"{type(error).__name__}: {error}"


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run(values: dict[str, Any], last: float) -> str:
    """Run one trial; returns the reason why it has no result, "" if it has one."""
    if time.time() > last:
        return "not started in time"
    config = FinetuneConfig.build(values)
    try:
        open_run(Path(config.run_dir), config, {"process": os.getpid()}, may_change=("run_dir",))
        finetune(config, PlainContext())
    except UsfmError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main())
