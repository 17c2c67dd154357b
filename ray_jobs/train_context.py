"""The Ray Train version of `usfm.train.context.WorkerContext`."""

import os
from collections.abc import Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from ray.train import CheckpointUploadMode
from torch import nn

__all__ = ["RayContext"]

MAX_DECODE_THREADS = 8  # 2,000 images/s and more each, see tests/benchmarks/loader.py


class RayContext:
    """One Ray Train worker; must be made inside the training function.

    Ray is told of metrics alone: the loop itself saves and finds checkpoints in the run's folder, which all nodes
    share, so a checkpoint counts when its hashes match, whoever wrote it.
    """

    def __init__(self) -> None:
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

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Report to the controller; checkpoints are none of its business (see `usfm.train.checkpoint_writer`)."""
        # the synchronous mode would wait for the controller's next poll
        ray.train.report(dict(metrics), checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
