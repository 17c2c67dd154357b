"""Fine-tuning on Ray Train: `python -m ray_jobs.finetune --config ray_jobs/recipes/finetune_fetal_head.yaml`.

The same command again goes on with an interrupted run, and shows the result of one that came to its end.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ray_jobs import job
from ray_jobs.cluster import ClusterConfig, connect, require
from ray_jobs.console import Console
from ray_jobs.signals import handlers_kept
from usfm.data import location
from usfm.data.left_out import left_out, left_out_line
from usfm.data.tasks import load_task
from usfm.errors import UsfmError
from usfm.train.finetune import finetune
from usfm.train.finetune_config import SCRATCH, FinetuneConfig
from usfm.train.finetune_state import RESULT, finished
from usfm.train.inheritance import labels_of_tested, labels_warning
from usfm.train.rundir import open_run

__all__ = ["FinetuneJobConfig", "fit", "main", "plan", "run"]


class FinetuneJobConfig(FinetuneConfig):
    """A fine-tuning run and where it runs.

    Attributes:
        workers: train workers; they share the batch.
        gpus_per_worker: GPUs of each; 0 = CPU.
        cpus_per_worker: CPUs that Ray reserves for each.
        max_failures: restarts from the last score after a lost worker or node; -1 = no limit.
        cluster: Ray.
    """

    workers: int = Field(default=1, ge=1)
    gpus_per_worker: float = Field(default=0, ge=0)
    cpus_per_worker: float = Field(default=1, gt=0)
    max_failures: int = Field(default=1, ge=-1)
    cluster: ClusterConfig = ClusterConfig()

    def science(self) -> FinetuneConfig:
        """The part that decides the result."""
        return FinetuneConfig.build(self.model_dump(include=set(FinetuneConfig.model_fields)))


def absolute(config: FinetuneConfig) -> FinetuneConfig:
    """The same run with absolute folders: workers have other working directories."""
    folders = {"run_dir": str(Path(config.run_dir).absolute()), "shards": location.absolute(config.shards)}
    if config.init != SCRATCH:
        folders["init"] = str(Path(config.init).absolute())
    return config.model_copy(update=folders)


def plan(config: FinetuneJobConfig) -> dict[str, Any]:
    """What would be trained on what."""
    sets, encoder = load_task(config.shards, config.task), config.resolved_encoder()
    return {
        "classes": config.task.class_names,
        "items": {split: len(data) for split, data in sets.items()},
        "patients": {split: len(set(data.groups)) for split, data in sets.items()},
        "left_out": left_out(sets, config.task),
        "labels_before": labels_of_tested(config.init, config.task, config.shards),
        "network": config.network,
        "encoder": encoder and encoder.model_dump(),
        "img_px": config.resolved_px(),
        "image_views": config.steps * config.batch_size,
    }


def run(config: FinetuneJobConfig, console: Console) -> Path:
    """Fine-tune; returns the folder of the best bundle."""
    science = absolute(config.science())
    folder = Path(science.run_dir)
    planning = plan(config)
    if said := left_out_line(config.task.name, planning["left_out"]):
        console.warn(said)
    if said := labels_warning(config.init, planning["labels_before"]):
        console.warn(said)
    open_run(folder, science, planning)
    result = finished(folder, science.inputs()) or _train(config, science, console)
    unit = f" {science.task.unit}".rstrip()
    console.table(science.task.name, ("score", "value"), [
        (f"{result['metric']} on test", f"{result['value']:.3f}{unit}"),
        (f"{result['metric']} on validation", f"{result['val_value']:.3f}{unit}"),
        ("training images", f"{result['train_items']} of {result['train_groups']} patients"),
        ("bundle", result["bundle"]),
    ])  # fmt: skip
    return Path(result["bundle"])


def _train(config: FinetuneJobConfig, science: FinetuneConfig, console: Console) -> dict[str, Any]:
    cpus, gpus = config.cpus_per_worker, config.gpus_per_worker
    with connect(config.cluster, console.verbose):
        require(config.workers * cpus, config.workers * gpus)
        with console.stage("finetune", None, "steps") as stage:
            result = fit(science, config.workers, cpus, gpus, [], config.max_failures)
            stage.to(config.steps)
    return result


def fit(
    config: FinetuneConfig, workers: int, cpus: float, gpus: float, callbacks: list[Any], max_failures: int = 0
) -> dict[str, Any]:
    """One fine-tuning run as a Ray Train job on the connected cluster.

    Args:
        config: of the run, with absolute folders.
        workers: that share the batch.
        cpus: of each.
        gpus: of each.
        callbacks: of Ray Train.
        max_failures: restarts from the last score.

    Raises:
        UsfmError: a worker failed; of the kind that the worker raised, if it was one of ours.
    """
    import ray.train
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    folder = Path(config.run_dir)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=config.model_dump(mode="json"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        with handlers_kept():
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        raised = getattr(error, "worker_failures", {}).values()
        kind = next((type(one) for one in raised if isinstance(one, UsfmError)), UsfmError)
        raise kind(f"fine-tuning in {folder} failed: {error}") from error
    result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return result


def _train_worker(values: dict[str, Any]) -> None:
    from ray_jobs.train_context import RayContext

    config = FinetuneConfig.build(values)
    finetune(config, RayContext())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        FinetuneJobConfig, run, plan, argv, command="finetune", recipe="finetune_fetal_head",
        description="Fine-tune a head on an encoder, on all or a fraction of the labels.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
