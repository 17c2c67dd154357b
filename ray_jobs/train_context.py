"""The Ray Train version of `usfm.train.context.WorkerContext`."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import CheckpointUploadMode
from torch import nn

from usfm.train.checkpoint import latest_checkpoint

__all__ = ["RayContext"]

MAX_DECODE_THREADS = 8  # 2,000 images/s and more each, see tests/benchmarks/loader.py


class RayContext:
    """One Ray Train worker; must be made inside the training function.

    Resume looks at the run's folder itself, not at Ray's list of checkpoints: a checkpoint counts when its hashes
    match, whoever wrote it, and the driver starts the stream from the very same one.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        context = ray.train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        # the workers of a node share its cores; more threads than a device can eat from only wait
        cores = os.cpu_count() or 1
        self.decode_threads: int = min(MAX_DECODE_THREADS, max(1, cores // context.get_local_world_size()))
        if self.device.type == "cpu":
            # set by what this worker was given, not by the machine: results must not change with the neighbours
            cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
            torch.set_num_threads(max(1, int(cpus)))

    def wrap(self, model: nn.Module) -> nn.Module:
        """DistributedDataParallel over gloo or nccl; a single worker needs none."""
        if self.world_size == 1:
            return model.to(self.device)
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over workers."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None = None, name: str | None = None) -> None:
        """Report to the controller; the checkpoint is uploaded behind the next steps, its folder then removed."""
        ray.train.report(
            dict(metrics),
            checkpoint=ray.train.Checkpoint.from_directory(str(checkpoint)) if checkpoint else None,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        """The newest whole checkpoint in the run's folder, which all nodes share."""
        yield latest_checkpoint(self.run_dir)
