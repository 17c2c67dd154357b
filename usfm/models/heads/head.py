"""What every head is: tokens of an encoder (and the image) to the answer of a task."""

from abc import ABC, abstractmethod

import torch
from torch import nn

from usfm.models.encoder import SIZES, EncoderConfig

__all__ = ["Head", "patch_map", "tapped_blocks"]


class Head(nn.Module, ABC):
    """A head is built from the encoder's shape and the number of outputs.

    Attributes:
        blocks: blocks (counted from 1) whose tokens it takes, beside those after the final norm.
    """

    def __init__(self, blocks: list[int]) -> None:
        super().__init__()
        self.blocks = blocks

    @abstractmethod
    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Answer.

        Args:
            taken: for each of `blocks` its tokens (B, 1 + N, D), CLS first, before any norm.
            normed: tokens (B, 1 + N, D) after the final norm.
            images: (B, 1, S, S) float32 grey values in [0, 1].

        Returns:
            (B, K) logits, (B, K, S, S) logits, (B, 1) values, or (B, 1, S, S) grey values.
        """

    def training_forward(
        self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `forward`, and what `auxiliary_loss` takes; both together reach every parameter."""
        return self(taken, normed, images), []

    def auxiliary_loss(self, aux: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """What training adds to the task's loss, weighted; a head without auxiliary outputs adds nothing.

        Args:
            aux: of `training_forward`.
            target: as the task's loss takes it, e.g. (B, S, S) int64 class numbers.

        Returns:
            Scalar float32.
        """
        return torch.zeros((), device=target.device)

    def fit_targets(self, mean: float, std: float) -> None:
        """Tell a regression head the mean and deviation of the training targets, in the target's unit.

        Raises:
            TypeError: another head has no targets to be scaled to.
        """
        raise TypeError(f"{type(self).__name__} predicts no values; only regression heads are fitted to targets")


def tapped_blocks(encoder: EncoderConfig) -> list[int]:
    """The blocks that dense heads take: 4, 6 and 8 in a depth of 12, in proportion otherwise.

    The fourth level, block 12 there, is the encoder's output after the final norm, so that the norm is trained too.
    Known: the authors' UPerNet taps 4, 6, 8, 12.
    """
    depth = SIZES[encoder.size][1]
    return [depth // 3, depth // 2, 2 * depth // 3]


def patch_map(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens (B, 1 + G * G, D), CLS first, to the map (B, D, G, G) of the patches."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)
