"""UPerNet: a feature pyramid from four blocks, pooled context on top, one map out of all levels.

Source: Xiao et al. (arXiv 1807.10221), Sec. 3.2; the pyramid from one scale of tokens as in BEiT's segmentation.
Known: the authors' segmentation head, on blocks 4, 6, 8, 12, with an auxiliary loss of weight 0.4. Written anew;
GroupNorm in place of BatchNorm, so that a batch of one image trains as well as any.
"""

import torch
import torch.nn.functional as F
from torch import nn

from usfm.models.encoder import EncoderConfig
from usfm.models.heads.head import Head, patch_map, tapped_blocks

__all__ = ["UPerNetHead"]

GROUP_CHANNELS = 8  # per group of a norm
AUXILIARY_WEIGHT = 0.4
DROPOUT = 0.1


class UPerNetHead(Head):
    """Levels of 4, 2, 1 and 1/2 cells per patch and side; channels: the encoder's width, at most 512."""

    LARGEST_WIDTH = 512
    AUXILIARY_WIDTH = 256
    BINS = (1, 2, 3, 6)  # pooled context, cells per side

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(tapped_blocks(encoder))
        inner, width = encoder.width, min(encoder.width, self.LARGEST_WIDTH)
        self.pyramid = nn.ModuleList([
            nn.Sequential(_double(inner), _norm(inner), nn.GELU(), _double(inner)),
            _double(inner),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),  # a grid of one patch keeps one cell
        ])  # fmt: skip
        self.pooled = nn.ModuleList(_layer(inner, width, 1) for _ in self.BINS)
        self.context = _layer(inner + len(self.BINS) * width, width, 3)
        self.lateral = nn.ModuleList(_layer(inner, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(_layer(width, width, 3) for _ in range(3))
        self.fuse = _layer(4 * width, width, 3)
        self.classify = nn.Sequential(nn.Dropout2d(DROPOUT), nn.Conv2d(width, outputs, kernel_size=1))
        between = min(inner, self.AUXILIARY_WIDTH)
        self.auxiliary = nn.Sequential(
            _layer(inner, between, 3), nn.Dropout2d(DROPOUT), nn.Conv2d(between, outputs, kernel_size=1)
        )

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens of three blocks and the output, each (B, 1 + N, D), to logits (B, K, S, S)."""
        levels = [scale(patch_map(tokens)) for scale, tokens in zip(self.pyramid, [*taken, normed], strict=True)]
        # finest first; each level gets what is above it
        above = self._context(levels[3])
        merged = [above]
        for level in (2, 1, 0):
            above = self.lateral[level](levels[level]) + _resized(above, levels[level])
            merged.append(above)
        # (B, W, ., .) each: the context as it is, the others smoothed; all at the finest size
        maps = [merged[0], *(smooth(x) for smooth, x in zip(self.smooth, merged[1:], strict=True))]
        fused = self.fuse(torch.cat([_resized(x, maps[-1]) for x in maps], dim=1))
        return _resized(self.classify(fused), images)

    def training_forward(
        self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `forward`, and the auxiliary logits (B, K, S, S) from block 8 of 12."""
        return self(taken, normed, images), [_resized(self.auxiliary(patch_map(taken[2])), images)]

    def auxiliary_loss(self, aux: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """0.4 x the cross-entropy of the auxiliary logits; target (B, S, S) int64. Known: the weight."""
        (logits,) = aux
        return AUXILIARY_WEIGHT * F.cross_entropy(logits.float(), target)

    def _context(self, x: torch.Tensor) -> torch.Tensor:
        """Pyramid pooling, (B, D, G, G) to (B, W, G, G)."""
        pooled = [
            _resized(layer(F.adaptive_avg_pool2d(x, bins)), x)
            for bins, layer in zip(self.BINS, self.pooled, strict=True)
        ]
        context: torch.Tensor = self.context(torch.cat([x, *pooled], dim=1))
        return context


def _double(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // GROUP_CHANNELS, channels)


def _layer(inputs: int, outputs: int, kernel: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, _norm(outputs), nn.ReLU())


def _resized(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
