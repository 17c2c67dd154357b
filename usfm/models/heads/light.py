"""A light segmentation head: four blocks' tokens are fused and shuffled up to pixels in two steps."""

import torch
import torch.nn.functional as F
from torch import nn

from usfm.models.encoder import EncoderConfig
from usfm.models.heads.head import Head, patch_map, tapped_blocks

__all__ = ["LightHead"]


class LightHead(Head):
    """The blocks are those that the authors' UPerNet taps; a tenth of its work."""

    WIDTH = 64
    LEVELS = 4

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(tapped_blocks(encoder))
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
            nn.Conv2d(self.WIDTH, outputs, kernel_size=1),
        )

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens of three blocks and the output, each (B, 1 + N, D), to logits (B, K, S, S)."""
        maps = [patch_map(norm(tokens)) for norm, tokens in zip(self.norms, [*taken, normed], strict=True)]
        logits = self.refine(self.fuse(torch.cat(maps, dim=1)))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
