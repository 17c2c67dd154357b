"""What every network of a task is, whatever it is made of."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from usfm.kinds import TaskKind

__all__ = ["TaskNetwork"]


class TaskNetwork(nn.Module, ABC):
    """Grey images to the answer of one task; it normalises its own input.

    Attributes:
        kind: of the task.
        img_px: side S of its square input.
    """

    def __init__(self, kind: TaskKind, img_px: int) -> None:
        super().__init__()
        self.kind = kind
        self.img_px = img_px

    @abstractmethod
    def forward(
        self, images: torch.Tensor, auxiliary: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """Answer.

        Args:
            images: (B, 1, S, S) float32 grey values in [0, 1].
            auxiliary: also what `auxiliary_loss` takes. Training asks for it: then every parameter gets a gradient,
                which DistributedDataParallel waits for.

        Returns:
            (B, K) logits for classification and multilabel, (B, K, S, S) logits for segmentation, (B, 1) values in
            the target's unit for regression, (B, 1, S, S) grey values for enhancement (in [0, 1] in eval mode, not
            clamped in training).
        """

    def auxiliary_loss(self, aux: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """What training adds to the task's loss, weighted: a float32 scalar, 0 for most networks.

        Args:
            aux: of `forward(images, auxiliary=True)`.
            target: as the task's loss takes it, e.g. (B, S, S) int64 class numbers.
        """
        return torch.zeros((), device=target.device)

    @abstractmethod
    def fit_targets(self, mean: float, std: float) -> None:
        """Tell a regression network the mean and deviation of the training targets, in the target's unit."""
