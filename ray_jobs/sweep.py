"""Label-efficiency sweep with Ray Tune: task x initialisation x label fraction x seed.

Each trial is one `usfm.train.finetune` run with its own folder. A trial that is done is not done again, so the same
command goes on with an interrupted sweep; a trial that fails is listed with its reason and the others go on.
"""

import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ray_jobs import job
from ray_jobs.cluster import ClusterConfig, connect, require
from ray_jobs.console import Console, following
from ray_jobs.finetune import absolute
from usfm.config import Config
from usfm.data.tasks import TaskConfig, load_task
from usfm.errors import ConfigError, UsfmError
from usfm.report.curves import write_label_curves
from usfm.train.context import PlainContext, best_device
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import open_run

__all__ = ["SweepConfig", "main", "plan", "run", "trials"]

COLUMNS = (
    *("task", "kind", "init", "fraction", "seed", "train_items", "train_groups"),
    *("metric", "value", "val_value", "seconds", "status", "bundle"),
)


class SweepConfig(Config):
    """A label-efficiency sweep.

    Attributes:
        run_dir: folder of the sweep.
        shards: folder that `usfm ingest` wrote.
        tasks: the tasks.
        inits: name -> "scratch" or a pre-training run; every name becomes a curve.
        fractions: label fractions; patient-level, stratified, nested.
        seeds: of fraction, head and batches.
        finetune: values of `FinetuneConfig` that all trials share.
        per_task: values that hold for one task alone, by task name.
        max_concurrent: trials at a time; needed, since drivers that wait for workers can fill a cluster.
        workers_per_trial: 0 = the trial's own process (no start-up cost); n >= 1 = a Ray Train group of n.
        cpus_per_trial: CPUs of a trial, or of each of its workers.
        gpus_per_trial: GPUs, fractions allowed.
        scheduler: "fifo" runs every trial to its end, as a label-efficiency table needs; "asha" stops weak ones
            early, by the validation score (for searching, never for comparing fractions).
        retries: of a failed trial.
        cluster: Ray.
    """

    run_dir: str = "runs/sweep"
    shards: str = "runs/shards"
    tasks: list[TaskConfig] = Field(min_length=1)
    inits: dict[str, str]
    fractions: list[float] = [0.05, 0.2, 1.0]
    seeds: list[int] = [0, 1, 2]
    finetune: dict[str, Any] = {}
    per_task: dict[str, dict[str, Any]] = {}
    max_concurrent: int = Field(default=2, ge=1)
    workers_per_trial: int = Field(default=0, ge=0)
    cpus_per_trial: float = Field(default=1, gt=0)
    gpus_per_trial: float = Field(default=0, ge=0)
    scheduler: Literal["fifo", "asha"] = "fifo"
    retries: int = Field(default=1, ge=0)
    cluster: ClusterConfig = ClusterConfig()


def trials(config: SweepConfig) -> dict[str, FinetuneConfig]:
    """Every trial by name, checked before any starts.

    Raises:
        ConfigError: a key or value of `finetune` or `per_task` is wrong.
    """
    unknown = sorted(set(config.per_task) - {task.name for task in config.tasks})
    if unknown:
        raise ConfigError(f"per_task names no task of this sweep: {', '.join(unknown)}")
    made = {}
    # the slow dimension last, so that a table with every fraction exists early
    for seed in config.seeds:
        for task in config.tasks:
            for fraction in config.fractions:
                for init_name, init in config.inits.items():
                    name = f"{task.name}-{init_name}-{fraction:g}-{seed}"
                    values = {
                        **_merged(config.finetune, config.per_task.get(task.name, {})),
                        "run_dir": str(Path(config.run_dir) / "trials" / name),
                        "shards": config.shards,
                        "task": task.model_dump(),
                        "init": init,
                        "fraction": fraction,
                        "seed": seed,
                    }
                    made[name] = absolute(FinetuneConfig.build(values))
    return made


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = _merged(both[key], value) if nested else value
    return both


def plan(config: SweepConfig) -> dict[str, Any]:
    """What would be run."""
    planned = trials(config)
    items = {task.name: {s: len(d) for s, d in load_task(config.shards, task).items()} for task in config.tasks}
    return {
        "trials": len(planned),
        "done": _count_done(planned, _inputs(planned)),
        "items": items,
        "image_views": sum(trial.steps * trial.batch_size for trial in planned.values()),
        "first": next(iter(planned)),
    }


def run(config: SweepConfig, console: Console) -> Path:
    """Run what is not done yet; returns the folder with results.csv, label_efficiency.html and best/."""
    planned, folder = trials(config), Path(config.run_dir).absolute()
    for trial in planned.values():
        trial.resolved_encoder()  # what does not fit should be said now, not by every trial
    open_run(folder, config, plan(config), may_change=PLACEMENT)
    inputs = _inputs(planned)
    waiting = {name: trial for name, trial in planned.items() if not _done(trial, inputs[name])}
    failures: dict[str, str] = {}
    if waiting:
        with connect(config.cluster, console.verbose):
            share = max(1, config.workers_per_trial) * config.max_concurrent
            if config.workers_per_trial:  # drivers that hold some workers and wait for others would wait for ever
                require(config.cpus_per_trial * share, config.gpus_per_trial * share)
            else:
                require(config.cpus_per_trial, config.gpus_per_trial)
            with _progress(console, planned, inputs):
                failures = _tune(config, waiting, inputs, folder)
    rows = _rows(planned, inputs, config, failures)
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    write_label_curves(folder / "results.csv", folder / "label_efficiency.html")
    _keep_best(rows, folder)
    _summary(rows, console, folder)
    if all(row["status"] != "ok" for row in rows):
        raise UsfmError(f"no trial of {folder} came to its end; the first says: {rows[0]['status']}")
    return folder


STOPPED = "stopped.json"
PLACEMENT = ("max_concurrent", "workers_per_trial", "cpus_per_trial", "gpus_per_trial", "retries", "cluster")
"""Keys that may change when a sweep goes on."""


def _inputs(planned: Mapping[str, FinetuneConfig]) -> dict[str, dict[str, str]]:
    """`FinetuneConfig.inputs` of every trial; hashing a checkpoint takes a while, so once per initialisation."""
    by_init = {trial.init: trial for trial in planned.values()}
    known = {init: trial.inputs() for init, trial in by_init.items()}
    return {name: known[trial.init] for name, trial in planned.items()}


def _done(trial: FinetuneConfig, inputs: Mapping[str, str]) -> bool:
    """Whether a trial ran to its end, or was stopped by the scheduler, on these very shards and weights."""
    for name in ("result.json", STOPPED):
        path = Path(trial.run_dir) / name
        if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("inputs") == inputs:
            return True
    return False


def _count_done(planned: Mapping[str, FinetuneConfig], inputs: Mapping[str, Mapping[str, str]]) -> int:
    return sum(_done(trial, inputs[name]) for name, trial in planned.items())


def _tune(
    config: SweepConfig,
    waiting: Mapping[str, FinetuneConfig],
    inputs: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> dict[str, str]:
    """Run trials; returns the reasons of those that failed."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    alone = config.workers_per_trial == 0
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial} if alone else {"cpu": 0.01}
    most = max(trial.steps for trial in waiting.values())
    scheduler = ASHAScheduler(time_attr="step", max_t=most, grace_period=max(1, most // 4))
    specs = [{"name": name, "config": trial.model_dump(mode="json")} for name, trial in waiting.items()]
    placement = {k: getattr(config, k) for k in ("workers_per_trial", "cpus_per_trial", "gpus_per_trial")}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, placement=placement), resources),
        param_space={"trial": tune.grid_search(specs)},
        tune_config=tune.TuneConfig(
            metric="val_value",
            mode="max",
            max_concurrent_trials=config.max_concurrent,
            scheduler=scheduler if config.scheduler == "asha" else FIFOScheduler(),
            reuse_actors=alone,  # importing torch costs more than a small trial
            trial_dirname_creator=lambda trial: trial.config["trial"]["name"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.retries),
        ),
    )
    grid = tuner.fit()
    lines = {r.config["trial"]["name"]: str(r.error).strip().splitlines() for r in grid if r.error and r.config}
    for name, trial in waiting.items():
        if config.scheduler == "asha" and name not in lines and not _done(trial, inputs[name]):
            (Path(trial.run_dir) / STOPPED).write_text(json.dumps({"inputs": inputs[name]}), encoding="utf-8")
    return {name: text[-1] for name, text in lines.items()}


def _trial(values: dict[str, Any], placement: dict[str, Any]) -> None:
    """One Tune trial."""
    from ray import tune

    config = FinetuneConfig.build(values["trial"]["config"])
    open_run(Path(config.run_dir), config, placement)
    if placement["workers_per_trial"]:
        from ray.tune.integration.ray_train import TuneReportCallback

        from ray_jobs.finetune import fit

        cpus, gpus = placement["cpus_per_trial"], placement["gpus_per_trial"]
        fit(config, placement["workers_per_trial"], cpus, gpus, [TuneReportCallback()])
        return
    import torch

    torch.set_num_threads(max(1, int(placement["cpus_per_trial"])))
    context = PlainContext(device=best_device() if placement["gpus_per_trial"] else torch.device("cpu"))
    context.report = lambda metrics, *_: tune.report(dict(metrics))  # type: ignore[method-assign]
    finetune(config, context)


def _rows(
    planned: Mapping[str, FinetuneConfig],
    inputs: Mapping[str, Mapping[str, str]],
    config: SweepConfig,
    failures: Mapping[str, str],
) -> list[dict[str, Any]]:
    rows = []
    for name, trial in planned.items():
        init = next(key for key in config.inits if name.startswith(f"{trial.task.name}-{key}-{trial.fraction:g}-"))
        row: dict[str, Any] = {"task": trial.task.name, "kind": trial.task.kind, "init": init,
                               "fraction": trial.fraction, "seed": trial.seed}  # fmt: skip
        if _done(trial, inputs[name]) and not (Path(trial.run_dir) / STOPPED).exists():
            result = json.loads((Path(trial.run_dir) / "result.json").read_text(encoding="utf-8"))
            row |= {k: v for k, v in result.items() if k in COLUMNS} | {"status": "ok"}
            row["bundle"] = f"trials/{name}/best"
        else:
            row["status"] = failures.get(name, "stopped early by the scheduler")
        rows.append(row)
    return rows


def _keep_best(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Copy, per task, the bundle with the best validation score to best/<task>."""
    shutil.rmtree(folder / "best", ignore_errors=True)
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["status"] == "ok" and row["val_value"] > best.get(row["task"], {"val_value": -1})["val_value"]:
            best[row["task"]] = row
    for task, row in best.items():
        shutil.copytree(folder / row["bundle"], folder / "best" / task)


def _summary(rows: Sequence[Mapping[str, Any]], console: Console, folder: Path) -> None:
    import pandas as pd

    table = pd.DataFrame(rows)
    done = table[table.status == "ok"]
    for _, failed in table[table.status != "ok"].iterrows():
        console.warn(f"trial {failed.task} {failed.init} {failed.fraction:g} seed {failed.seed}: {failed.status}")
    if done.empty:
        return
    grouped = done.groupby(["task", "init", "fraction"], sort=False).value.agg(["mean", "min", "max", "count"])
    shown = [
        (
            r.task,
            r.init,
            f"{r.fraction:.0%}",
            f"{r['mean']:.3f}",
            f"{r['min']:.3f} - {r['max']:.3f}",
            int(r["count"]),
        )
        for _, r in grouped.reset_index().iterrows()
    ]
    console.table(
        f"test scores ({folder / 'results.csv'})", ("task", "init", "labels", "mean", "range", "seeds"), shown
    )


@contextmanager
def _progress(
    console: Console, planned: Mapping[str, FinetuneConfig], inputs: Mapping[str, Mapping[str, str]]
) -> Iterator[None]:
    with console.stage("sweep", len(planned), "trials") as stage:
        stage.resume(_count_done(planned, inputs))
        with following(lambda: stage.to(_count_done(planned, inputs))):
            yield


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        SweepConfig, run, plan, argv, recipe="label_efficiency_tiny",
        description="Sweep label fractions and initialisations over tasks with Ray Tune.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
