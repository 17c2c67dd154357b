"""Heads that answer a number in the target's own unit."""

import math

import torch
from torch import nn

from usfm.errors import DataError
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.attentive import AttentiveHead
from usfm.models.heads.head import Head
from usfm.models.heads.linear import LinearHead

__all__ = ["AttentiveRegression", "LinearRegression", "TargetScale"]


class TargetScale(nn.Module):
    """A network's output, near mean 0 and deviation 1, to the target's unit: x * std + mean."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, mean: float, std: float) -> None:
        """Set both from the training targets.

        Raises:
            DataError: not finite, or a deviation of 0: all targets are the same.
        """
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise DataError(
                f"the training targets have mean {mean:g} and deviation {std:g}; expected finite numbers "
                "that differ: take more rows, or look at the labels"
            )
        self.mean.fill_(mean)
        self.std.fill_(std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values of any shape."""
        return x * self.std + self.mean


class _Regression(Head):
    """A head for classes whose outputs are values."""

    def __init__(self, body: Head) -> None:
        super().__init__(blocks=body.blocks)
        self.body = body
        self.scale = TargetScale()

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + N, D) to values (B, K) in the target's unit."""
        values: torch.Tensor = self.scale(self.body(taken, normed, images))
        return values

    def fit_targets(self, mean: float, std: float) -> None:
        """Mean and deviation of the training targets, in the target's unit."""
        self.scale.fit(mean, std)


class LinearRegression(_Regression):
    """The linear head in the target's unit."""

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(LinearHead(encoder, outputs))


class AttentiveRegression(_Regression):
    """The attentive head in the target's unit."""

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(AttentiveHead(encoder, outputs))
