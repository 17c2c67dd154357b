"""The restoration head: a residual image from what the encoder knows and from the input's own fine detail.

Idea: the shallow branch beside a transformer's deep features is SwinIR's (arXiv 2108.10257); written anew. Tokens
alone cannot carry the grain of an image, and convolutions alone do not know what organ it shows.
"""

import torch
import torch.nn.functional as F
from torch import nn

from usfm.models.encoder import EncoderConfig
from usfm.models.heads.head import Head, patch_map, tapped_blocks

__all__ = ["RestorationHead"]


class RestorationHead(Head):
    """Output: the input plus a residual that starts at zero, so that training begins from "leave it as it is"."""

    WIDTH = 32
    LEVELS = 4

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(tapped_blocks(encoder))
        width = self.WIDTH
        self.norms = nn.ModuleList(nn.LayerNorm(encoder.width, eps=1e-6) for _ in range(self.LEVELS))
        self.fuse = nn.Conv2d(self.LEVELS * encoder.width, 4 * width, kernel_size=1)
        self.decode = nn.Sequential(
            nn.GELU(),
            nn.PixelShuffle(2),  # (B, W, 2 G, 2 G)
            nn.Conv2d(width, 4 * width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.PixelShuffle(2),  # (B, W, 4 G, 4 G)
            nn.Conv2d(width, width, kernel_size=3, padding=1),
        )
        self.shallow = nn.Sequential(nn.Conv2d(1, width, kernel_size=3, padding=1), _Residual(width))
        self.join = nn.Conv2d(2 * width, width, kernel_size=1)
        self.refine = nn.Sequential(_Residual(width), _Residual(width))
        self.out = nn.Conv2d(width, outputs, kernel_size=3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens of three blocks and the output, each (B, 1 + N, D), and images to images (B, 1, S, S).

        Grey values: in [0, 1] in eval mode, not clamped in training.
        """
        maps = [patch_map(norm(tokens)) for norm, tokens in zip(self.norms, [*taken, normed], strict=True)]
        deep = self.decode(self.fuse(torch.cat(maps, dim=1)))
        deep = F.interpolate(deep, size=images.shape[-2:], mode="bilinear", align_corners=False)
        fine = self.shallow(images - 0.5)
        restored: torch.Tensor = images + self.out(self.refine(self.join(torch.cat([deep, fine], dim=1))))
        return restored if self.training else restored.clamp(0, 1)


class _Residual(nn.Module):
    """x + conv(GELU(conv(x))), (B, W, H, H) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = x + self.second(F.gelu(self.first(x)))
        return added
