"""The mask-query head: each class has a query, and its attention map over the patches is its mask.

Source: SegViT (Zhang et al., arXiv 2210.05844), "attention to mask", Sec. 3.2, written anew with one change: the
product of class score and mask is taken in logarithms. The softmax of the logits then is the product, normalised
over the classes, and the same losses serve as for every other head.
"""

import torch
import torch.nn.functional as F
from torch import nn

from usfm.models.encoder import SIZES, EncoderConfig
from usfm.models.heads.head import Head, tapped_blocks

__all__ = ["MaskQueryHead"]

PRESENCE_WEIGHT = 0.4
STAGE_WEIGHT = 0.4


class MaskQueryHead(Head):
    """Three stages, from the deepest tokens up; the masks of the stages add up before the sigmoid."""

    STAGES = 3

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(tapped_blocks(encoder)[-2:])  # blocks 6 and 8 of 12, and the output
        width, _, heads = SIZES[encoder.size]
        self.query = nn.Parameter(torch.empty(1, outputs, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.stages = nn.ModuleList(_Stage(width, heads) for _ in range(self.STAGES))
        self.score = nn.Linear(width, 1)

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens of two blocks and the output, each (B, 1 + N, D), to logits (B, K, S, S)."""
        scores, masks = self.masks(taken, normed)
        return _logits(scores, masks[-1], images.shape[-2:])

    def training_forward(
        self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As `forward`, and the class scores (B, K) and earlier masks (B, K, G, G), all before the sigmoid."""
        scores, masks = self.masks(taken, normed)
        return _logits(scores, masks[-1], images.shape[-2:]), [scores, *masks[:-1]]

    def auxiliary_loss(self, aux: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Is the class in the image at all, and are the earlier stages' logits right; target (B, S, S) int64."""
        scores, *masks = (x.float() for x in aux)
        present = F.one_hot(target.flatten(1), scores.shape[1]).amax(dim=1).float()  # (B, K)
        loss = PRESENCE_WEIGHT * F.binary_cross_entropy_with_logits(scores, present)
        for mask in masks:
            logits = _logits(scores, mask, target.shape[-2:])
            loss = loss + STAGE_WEIGHT / len(masks) * F.cross_entropy(logits, target)
        return loss

    def masks(self, taken: list[torch.Tensor], normed: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Class scores (B, K), and the mask logits (B, K, G, G) up to each stage, the last being the result."""
        query = self.query.expand(len(normed), -1, -1)  # (B, K, D)
        found: list[torch.Tensor] = []
        for stage, tokens in zip(self.stages, [normed, *reversed(taken)], strict=True):
            query, mask = stage(query, tokens)
            found.append(mask if not found else found[-1] + mask)
        return self.score(query)[..., 0], found


class _Stage(nn.Module):
    """Cross-attention of the queries to a block's patches, then an MLP; the similarities are the masks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_tokens = nn.LayerNorm(width, eps=1e-6)
        self.norm_query = nn.LayerNorm(width, eps=1e-6)
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(width, width)
        self.to_value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, query: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries (B, K, D) and tokens (B, 1 + N, D) to new queries and mask logits (B, K, G, G)."""
        tokens = self.norm_tokens(tokens)[:, 1:]
        asked = self.norm_query(query)
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, K or N, D / heads)
            for layer, x in ((self.to_query, asked), (self.to_key, tokens), (self.to_value, tokens))
        )
        similar = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5  # (B, heads, K, N)
        read = (similar.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # (B, K, D)
        query = query + self.project(read)
        side = round(tokens.shape[1] ** 0.5)
        mask = similar.mean(dim=1).unflatten(-1, (side, side))
        return query + self.mlp(query), mask


def _logits(scores: torch.Tensor, masks: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """log(sigmoid(score) x sigmoid(mask)) per class and pixel: (B, K), (B, K, G, G) to (B, K, *size)."""
    masks = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)
    return F.logsigmoid(scores.float())[..., None, None] + F.logsigmoid(masks)
