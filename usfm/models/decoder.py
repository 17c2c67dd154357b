"""The reconstruction decoder: one 1x1 convolution and a pixel shuffle. Source: SimMIM, Sec. 3 (likely in USFM)."""

import torch
from torch import nn

__all__ = ["PixelShuffleDecoder"]


class PixelShuffleDecoder(nn.Module):
    """Each patch token predicts its own P x P pixels."""

    def __init__(self, width: int, patch_px: int, channels: int = 1) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, patch_px * patch_px * channels, kernel_size=1)
        self.shuffle = nn.PixelShuffle(patch_px)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Patch tokens (B, N, D), without CLS, to images (B, C, S, S)."""
        side = int(tokens.shape[1] ** 0.5)
        grid = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)  # (B, D, S / P, S / P)
        images: torch.Tensor = self.shuffle(self.project(grid))
        return images
