"""The linear head: mean of the patch tokens -> LayerNorm -> linear (known: the authors' released head)."""

import torch
from torch import nn

from usfm.models.encoder import EncoderConfig
from usfm.models.heads.head import Head

__all__ = ["LinearHead"]


class LinearHead(Head):
    """For one class per image, several labels per image, or (see `usfm.models.heads.regression`) a number."""

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(blocks=[])
        self.norm = nn.LayerNorm(encoder.width, eps=1e-6)
        self.linear = nn.Linear(encoder.width, outputs)

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + N, D) to logits (B, K)."""
        logits: torch.Tensor = self.linear(self.norm(normed[:, 1:].mean(dim=1)))
        return logits
