"""The attentive head: one learnt query asks all tokens, instead of their mean.

Idea: the attentive probes of CAE (arXiv 2202.03026) and V-JEPA (arXiv 2404.08471), written anew. On a frozen
encoder it finds what masked modelling keeps in single patches, which their mean blurs.
"""

import torch
from torch import nn

from usfm.models.encoder import SIZES, EncoderConfig
from usfm.models.heads.head import Head

__all__ = ["AttentiveHead"]


class AttentiveHead(Head):
    """One query, cross-attention over CLS and patch tokens, LayerNorm, linear."""

    def __init__(self, encoder: EncoderConfig, outputs: int) -> None:
        super().__init__(blocks=[])
        width, _, heads = SIZES[encoder.size]
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, outputs)

    def forward(self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + N, D) to logits (B, K)."""
        query = self.query.expand(len(normed), -1, -1)
        pooled = self.attention(query, normed, normed, need_weights=False)[0][:, 0]  # (B, D)
        logits: torch.Tensor = self.linear(self.norm(pooled))
        return logits
