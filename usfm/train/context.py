"""What a training loop knows of the process it runs in: a small protocol, and the plain-process version.

Ray Train is another implementation (`ray_jobs.train_context`), so every loop runs and is timed without a cluster.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

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

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Publish metrics. All ranks call it equally often."""


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class PlainContext:
    """A single worker in this very process; reports go to a list."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or best_device()
        self.reports: list[dict[str, Any]] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move to the device."""
        return model.to(self.device)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """One worker: nothing to add."""
        return values

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Keep the metrics."""
        self.reports.append(dict(metrics))
