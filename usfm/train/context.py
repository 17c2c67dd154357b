"""What a training loop knows of the process it runs in: a small protocol, and the plain-process version.

Ray Train is another implementation (`ray_jobs.train_context`), so every loop runs and is timed without a cluster.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from usfm.train.checkpoint import latest_checkpoint

__all__ = ["PlainContext", "WorkerContext", "best_device"]


class WorkerContext(Protocol):
    """One worker of a training run."""

    @property
    def rank(self) -> int:
        """Number of this worker, 0-based."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and make its gradients averaged over workers."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over workers; every worker gets the result."""

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None = None, name: str | None = None) -> None:
        """Publish metrics and, from rank 0, a checkpoint folder, which is moved. All ranks call it."""

    def restore(self) -> contextlib.AbstractContextManager[Path | None]:
        """The folder of the checkpoint to go on from, or None."""


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PlainContext:
    """A single worker in this very process; checkpoints go to `folder`, reports to a list."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path | None = None, device: torch.device | None = None) -> None:
        self.folder = folder
        self.device = device or best_device()
        self.reports: list[dict[str, Any]] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move to the device."""
        return model.to(self.device)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """One worker: nothing to add."""
        return values

    def report(self, metrics: Mapping[str, Any], checkpoint: Path | None = None, name: str | None = None) -> None:
        """Keep the metrics; move the checkpoint to `folder / name`."""
        self.reports.append(dict(metrics))
        if checkpoint is not None and self.folder is not None:
            target = self.folder / (name or checkpoint.name)
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(checkpoint, target)

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        """The newest whole checkpoint in `folder`."""
        yield latest_checkpoint(self.folder) if self.folder else None
