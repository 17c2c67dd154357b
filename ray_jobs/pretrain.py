"""Pre-training on Ray: `python -m ray_jobs.pretrain --config ray_jobs/recipes/pretrain_tiny.yaml optim.lr=3e-4`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from ray_jobs import job
from ray_jobs.cluster import ClusterConfig, connect, require
from ray_jobs.console import Console, following
from usfm.data.location import absolute
from usfm.data.stream import ImageStream
from usfm.errors import CheckpointError, ConfigError, NonFiniteLoss, ShardError, UsfmError
from usfm.train.checkpoint import check_identity, latest_checkpoint
from usfm.train.journal import last_row
from usfm.train.pretrain import pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan, without_data
from usfm.train.pretrain_step import REPLACED
from usfm.train.rundir import open_run
from usfm.train.start import check_start

__all__ = ["PretrainJobConfig", "main", "plan", "progress_note", "run"]


class PretrainJobConfig(PretrainConfig):
    """A pre-training run and where it runs.

    Attributes:
        workers: train workers; the global batch does not change with them.
        gpus_per_worker: 1 = one GPU each with nccl, 0 = CPU with gloo.
        cpus_per_worker: CPUs that Ray reserves for a worker; at least one CPU has to be left for reading.
        max_failures: restarts from the last checkpoint after a lost worker or node; -1 = no limit.
        cluster: Ray.
    """

    workers: int = Field(default=1, ge=1)
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    max_failures: int = Field(default=3, ge=-1)
    cluster: ClusterConfig = ClusterConfig()

    def science(self) -> PretrainConfig:
        """The part that decides the result."""
        return PretrainConfig.build(self.model_dump(include=set(PretrainConfig.model_fields)))


FATAL: dict[str, type[UsfmError]] = {kind.__name__: kind for kind in (NonFiniteLoss, CheckpointError, ConfigError)}
PLACEMENT = tuple(set(PretrainJobConfig.model_fields) - set(PretrainConfig.model_fields))
"""Keys that may change when a run goes on."""
UNSEEN = ("speed", "checkpoint_every", "keep_checkpoints", "observe", "tracker")
"""More of them: they change nothing that is learnt."""
LOSSES = ("spatial", "frequency", "latent")
"""Names of loss terms that the progress line shows."""


def plan(config: PretrainJobConfig) -> dict[str, Any]:
    """What would be done: sizes, rates, masks, shares, and the step at which an interrupted run goes on."""
    try:
        stream = ImageStream(config.data, config.seed)
    except ShardError as error:
        return {"shards": str(error), "epochs": config.epochs, **without_data(config, config.workers)}
    derived = PretrainPlan.derive(config, stream, config.workers)
    return {**derived.to_json(), "resumes_at_step": _resume_step(config, derived), "run_dir": config.run_dir}


def _resume_step(config: PretrainConfig, derived: PretrainPlan) -> int:
    """The step at which the run goes on, from its own checkpoint or from `start`; 0 = from the beginning."""
    found, identity = latest_checkpoint(Path(config.run_dir)), derived.identity(config)
    if found:
        return int(check_identity(found, identity)["step"])
    return check_start(config.start, identity, derived.total_steps)


def run(config: PretrainJobConfig, console: Console) -> Path:
    """Run, or go on with, a pre-training run; returns its folder.

    Raises:
        NonFiniteLoss: training stopped before a step; the message names the file with the sample ids.
        UsfmError: a worker failed more often than `max_failures`.
    """
    run_dir = Path(config.run_dir).absolute()
    shards = absolute(config.data.shards)  # workers have other working directories
    start = config.start and config.start.model_copy(update={"source": str(Path(config.start.source).absolute())})
    data = config.data.model_copy(update={"shards": shards})
    config = config.model_copy(update={"run_dir": str(run_dir), "data": data, "start": start})
    derived = PretrainPlan.derive(config, ImageStream(config.data, config.seed), config.workers)
    _resume_step(
        config, derived
    )  # refuses what cannot be gone on with before the folder says that it holds this run
    open_run(run_dir, config, derived.to_json(), may_change=(*PLACEMENT, *UNSEEN))
    with connect(config.cluster, console.verbose):
        require(config.workers * config.cpus_per_worker + 1, config.workers * config.gpus_per_worker)
        with _progress(console, run_dir, derived, config, _resume_step(config, derived)):
            outcome = _fit(config)
    if error := outcome.get("error"):
        raise FATAL[outcome["kind"]](error)
    if (run_dir / REPLACED).is_dir():
        console.warn(f"shards are missing or damaged, others stood in for their samples: see {run_dir / REPLACED}")
    console.say(f"checkpoint   {latest_checkpoint(run_dir)}")
    return run_dir


def _fit(config: PretrainJobConfig) -> dict[str, Any]:
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    science, run_dir = config.science(), Path(config.run_dir)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=science.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker={"CPU": config.cpus_per_worker}
            | ({"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=run_dir.name,
            storage_path=str(run_dir.parent),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise UsfmError(
            f"training failed: {error}. Checkpoints are in {run_dir}; --verbose shows the workers"
        ) from error
    return dict(result.return_value or {})


def _train_worker(values: dict[str, Any]) -> dict[str, Any]:
    """Runs on every train worker; returns the last metrics, or the reason why the run must not be retried."""
    from ray_jobs.feed import worker_feed
    from ray_jobs.train_context import RayContext

    config = PretrainConfig.build(values)
    context = RayContext()
    try:
        return pretrain(
            config,
            context,
            lambda stream, plan: worker_feed(
                config, stream, plan, context.rank, context.world_size, context.decode_threads
            ),
        )
    except tuple(FATAL.values()) as error:
        # every worker meets these at the same place, and a restart would meet them again
        return {"error": str(error), "kind": type(error).__name__}


@contextmanager
def _progress(
    console: Console, run_dir: Path, derived: PretrainPlan, config: PretrainConfig, start: int
) -> Iterator[None]:
    """Follow the run's journal while `fit` blocks."""
    before = last_row(run_dir)  # of an earlier process, perhaps of a step that will be done again
    with console.stage("pretrain", derived.total_samples, "images") as stage:
        stage.resume(start * config.batch.global_size)

        def show() -> None:
            if (row := last_row(run_dir)) and row != before:
                stage.says_rate(f"{row['images_per_s']:,.0f} images/s")
                stage.note(progress_note(row, config.epochs))
                stage.to(row["step"] * config.batch.global_size)

        with following(show):
            yield


def progress_note(row: Mapping[str, Any], epochs: int) -> str:
    """What a person wants to see of a row of metrics beside count, rate and time left."""
    said = ["REFUSED"] if row["refused"] else []
    said += [f"epoch {row['epoch']:.2f}/{epochs}", f"loss {row['loss']:.4f}", f"wait {row['data_wait']:.0%}"]
    said += [f"{name} {row[name]:.3f}" for name in LOSSES if name in row]
    return "  ".join([*said, f"lr {row['lr']:.1e}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        PretrainJobConfig, run, plan, argv, recipe="pretrain_tiny",
        description="Pre-train an encoder by spatial-frequency dual masked image modelling.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
