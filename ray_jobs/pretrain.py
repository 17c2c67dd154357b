"""Pre-training on Ray: `python -m ray_jobs.pretrain --config ray_jobs/recipes/pretrain_tiny.yaml optim.lr=3e-4`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, field_validator

from ray_jobs import job
from ray_jobs.cluster import ClusterConfig, connect, require, set_start_timeout
from ray_jobs.console import Console
from ray_jobs.pretrain_progress import following_run
from ray_jobs.signals import handlers_kept
from usfm.data.location import absolute
from usfm.data.patience import patiently
from usfm.data.stream import ImageStream
from usfm.errors import CheckpointError, ConfigError, NonFiniteLoss, RunTakenOver, ShardError, UsfmError
from usfm.train.checkpoint import check_identity, latest_checkpoint
from usfm.train.observe.check import check_observing, for_workers
from usfm.train.ownership import claim, claim_start, is_owner, leave_when_taken
from usfm.train.pretrain import pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan, needs_even_lanes, without_data
from usfm.train.replaced import REPLACED
from usfm.train.rundir import open_run
from usfm.train.start import check_start, pinned
from usfm.train.there import while_there
from usfm.train.together import together

__all__ = ["PretrainJobConfig", "main", "plan", "run"]


class PretrainJobConfig(PretrainConfig):
    """A pre-training run and where it runs.

    Attributes:
        workers: train workers; the global batch does not change with them. Two numbers are a range: training goes
            on with as many workers as the cluster has room for, and changes their number when that changes.
        resize_every_s: how often a range looks for room for more workers; each change costs a restart from the last
            checkpoint.
        gpus_per_worker: 1 = one GPU each with nccl, 0 = CPU with gloo.
        cpus_per_worker: CPUs that Ray reserves for a worker; at least one CPU has to be left for reading.
        max_failures: restarts from the last checkpoint after a lost worker or node; -1 = no limit. Nodes that
            announce their end (preemption) are not counted.
        start_timeout_s: how long Ray waits for all workers to be placed and started before it counts a failure and
            looks again at what the cluster has; None = 120, and 30 for a range, which can go on with fewer.
        cluster: Ray.
    """

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    resize_every_s: float = Field(default=60.0, gt=0)
    gpus_per_worker: int = Field(default=0, ge=0, le=1)
    cpus_per_worker: float = Field(default=0.5, gt=0)
    max_failures: int = Field(default=3, ge=-1)
    start_timeout_s: float | None = Field(default=None, gt=0)
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("workers")
    @classmethod
    def _ordered(cls, workers: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError(f"a range is [fewest, most] (got [{workers[0]}, {workers[1]}])")
        return workers

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while the run goes on."""
        return isinstance(self.workers, tuple)

    @property
    def fewest(self) -> int:
        """Workers without which the run waits."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most(self) -> int:
        """Workers that the run can use."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    def science(self) -> PretrainConfig:
        """The part that decides the result."""
        return PretrainConfig.build(self.model_dump(include=set(PretrainConfig.model_fields)))


FATAL: dict[str, type[UsfmError]] = {
    kind.__name__: kind for kind in (NonFiniteLoss, CheckpointError, ConfigError, RunTakenOver)
}
"""A restart would meet these again."""
PLACEMENT = tuple(set(PretrainJobConfig.model_fields) - set(PretrainConfig.model_fields))
"""Keys that may change when a run goes on."""
UNSEEN = ("speed", "checkpoint_every", "keep_checkpoints", "observe", "tracker", "nonfinite")
"""More of them: they change nothing that is learnt; `nonfinite` is how a run that stopped at a bad step goes on."""


def plan(config: PretrainJobConfig) -> dict[str, Any]:
    """What would be done: sizes, rates, masks, shares, and the step at which an interrupted run goes on."""
    try:
        stream = ImageStream(config.data, config.seed)
    except ShardError as error:
        return {"shards": str(error), "epochs": config.epochs, **_without_data(config)}
    derived = _derive(config, stream)
    said = {"probe_notes": found} if (found := check_observing(config)) else {}
    resumes = _resume_step(config, derived)
    return {**derived.to_json(), "resumes_at_step": resumes, "run_dir": config.run_dir, **said}


def _derive(config: PretrainJobConfig, stream: ImageStream) -> PretrainPlan:
    """The plan for the most workers, which fewer fit too; a fixed number gets equal shares."""
    _check_range(config)
    return PretrainPlan.derive(config, stream, config.most, even=not config.elastic)


def _without_data(config: PretrainJobConfig) -> dict[str, Any]:
    _check_range(config)
    return without_data(config, config.most, even=not config.elastic)


def _check_range(config: PretrainJobConfig) -> None:
    """Refuse a range of workers of which some number could not train.

    Raises:
        ConfigError: shards (FSDP) need equally many micro-batches on every worker.
    """
    if config.elastic and needs_even_lanes(config):
        for workers in range(config.fewest, config.most + 1):
            config.batch.lanes(workers)


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
        RunTakenOver: the job was submitted again meanwhile; that submission goes on.
        UsfmError: a worker failed more often than `max_failures`.
    """
    run_dir = Path(config.run_dir).absolute()
    shards = absolute(config.data.shards)  # workers have other working directories
    start = pinned(config.start, run_dir)
    data = config.data.model_copy(update={"shards": shards})
    observe = for_workers(config.observe)
    config = config.model_copy(update={"run_dir": str(run_dir), "data": data, "start": start, "observe": observe})
    derived = _derive(config, ImageStream(config.data, config.seed))
    for said in check_observing(config):
        console.warn(said)
    _resume_step(
        config, derived
    )  # before the folder says that it holds this run: refuses what cannot be gone on with
    may_change = (*PLACEMENT, *UNSEEN)
    patiently(lambda: open_run(run_dir, config, derived.to_json(), may_change), str(run_dir))
    with connect(config.cluster, console.verbose):
        require(config.fewest * config.cpus_per_worker + 1, config.fewest * config.gpus_per_worker)
        with following_run(console, run_dir, derived, config, _resume_step(config, derived)):
            outcome = _fit(config, patiently(lambda: claim(run_dir), str(run_dir)))
    if error := outcome.get("error"):
        raise FATAL[outcome["kind"]](error)
    if (run_dir / REPLACED).is_dir():
        console.warn(f"shards are missing or damaged, others stood in for their samples: see {run_dir / REPLACED}")
    console.say(f"checkpoint   {latest_checkpoint(run_dir)}")
    return run_dir


def _fit(config: PretrainJobConfig, mark: str) -> dict[str, Any]:
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    science, run_dir = config.science(), Path(config.run_dir)
    # a lost node's room is still listed for a while: a range that waits long for it could have gone on with less
    set_start_timeout(config.start_timeout_s or (30.0 if config.elastic else None))
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"run": science.model_dump(mode="json"), "mark": mark},
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            elastic_resize_monitor_interval_s=config.resize_every_s,
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
        with handlers_kept():
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

    config = PretrainConfig.build(values["run"])
    run_dir, mark = Path(config.run_dir), values["mark"]
    context = RayContext()
    try:
        together(context, lambda: while_there(run_dir, lambda: _check_owner(run_dir, mark)))
        if context.rank == 0:
            leave_when_taken(run_dir, mark, while_there(run_dir, lambda: claim_start(run_dir)))
        return pretrain(
            config,
            context,
            lambda stream, plan: worker_feed(
                config, stream, plan, context.rank, context.world_size, context.decode_threads
            ),
            opened=True,
        )
    except tuple(FATAL.values()) as error:
        # every worker meets these (see `together`), and a restart would meet them again
        return {"error": str(error), "kind": type(error).__name__}


def _check_owner(run_dir: Path, mark: str) -> None:
    if not is_owner(run_dir, mark):
        raise RunTakenOver(f"{run_dir} was taken over by a newer submission of this job, which goes on with it")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        PretrainJobConfig, run, plan, argv, command="pretrain", recipe="pretrain_tiny",
        description="Pre-train an encoder by spatial-frequency dual masked image modelling.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
