"""Losses of class scores: one class an image, or any number of them."""

import torch
import torch.nn.functional as F

__all__ = ["classification_loss", "multilabel_loss"]


def classification_loss(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy with smoothed labels.

    Args:
        logits: (B, K).
        target: (B,) int64 class numbers.
        smoothing: share of the probability that is spread over all classes (known downstream: 0.1).
        weight: (K,) of the classes; the mean over images is weighted by that of their class.

    Returns:
        Scalar float32.
    """
    return F.cross_entropy(logits.float(), target, weight=weight, label_smoothing=smoothing)


def multilabel_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy, mean over images and classes.

    Args:
        logits: (B, K).
        target: (B, K) float32, 1 = the class is there.
        weight: (K,) of the positive rows of each class, 1 = as the negative ones.

    Returns:
        Scalar float32.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=weight)
