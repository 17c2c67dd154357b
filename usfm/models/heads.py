"""Task heads on the encoder's tokens, and the model that joins the two."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from usfm.models.encoder import SIZES, Encoder, EncoderConfig

__all__ = ["HEADS", "ClassificationHead", "SegmentationHead", "TaskModel"]

TaskKind = Literal["classification", "segmentation"]


class ClassificationHead(nn.Module):
    """Mean of the patch tokens -> LayerNorm -> linear (known: the authors' released head)."""

    def __init__(self, encoder: EncoderConfig, classes: int) -> None:
        super().__init__()
        self.blocks: list[int] = []
        self.norm = nn.LayerNorm(encoder.width, eps=1e-6)
        self.linear = nn.Linear(encoder.width, classes)

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + N, D) to logits (B, K)."""
        logits: torch.Tensor = self.linear(self.norm(normed[:, 1:].mean(dim=1)))
        return logits


class SegmentationHead(nn.Module):
    """A light decoder: four blocks' tokens are fused and shuffled up to pixels in two steps.

    The blocks are those that the authors' UPerNet taps in a depth of 12 (4, 6, 8, 12).
    """

    WIDTH = 64
    LEVELS = 4

    def __init__(self, encoder: EncoderConfig, classes: int) -> None:
        super().__init__()
        depth = SIZES[encoder.size][1]
        self.blocks = [depth // 3, depth // 2, 2 * depth // 3]  # and the output, after the final norm
        self.grid, self.img_px = encoder.grid, encoder.img_px
        self.norms = nn.ModuleList(nn.LayerNorm(encoder.width, eps=1e-6) for _ in range(self.LEVELS))
        self.fuse = nn.Conv2d(self.LEVELS * encoder.width, 4 * self.WIDTH, kernel_size=1)
        self.refine = nn.Sequential(
            nn.GELU(),
            nn.PixelShuffle(2),  # (B, W, 2 G, 2 G)
            nn.Conv2d(self.WIDTH, 4 * self.WIDTH, kernel_size=3, padding=1),
            nn.GELU(),
            nn.PixelShuffle(2),  # (B, W, 4 G, 4 G)
            nn.Conv2d(self.WIDTH, self.WIDTH, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv2d(self.WIDTH, classes, kernel_size=1),
        )

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor) -> torch.Tensor:
        """Tokens of three blocks and the output, each (B, 1 + N, D), to logits (B, K, S, S)."""
        maps = [
            norm(tokens[:, 1:]).transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)
            for norm, tokens in zip(self.norms, [*taken, normed], strict=True)
        ]
        logits = self.refine(self.fuse(torch.cat(maps, dim=1)))
        return F.interpolate(logits, size=(self.img_px, self.img_px), mode="bilinear", align_corners=False)


HEADS: dict[str, type[ClassificationHead] | type[SegmentationHead]] = {
    "classification": ClassificationHead,
    "segmentation": SegmentationHead,
}


class TaskModel(nn.Module):
    """Encoder and head. Input: (B, 1, S, S) float32 grey values in [0, 1]."""

    def __init__(self, encoder: EncoderConfig, kind: TaskKind, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.encoder.mask_token = None  # nothing is masked downstream
        self.head = HEADS[kind](encoder, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits: (B, K) for classification, (B, K, S, S) for segmentation."""
        logits: torch.Tensor = self.head(*self.encoder.intermediates(images, self.head.blocks))
        return logits
