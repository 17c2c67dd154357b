"""Segmentation loss: cross-entropy plus soft Dice over the foreground classes."""

import torch
import torch.nn.functional as F

__all__ = ["segmentation_loss"]


def segmentation_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy + (1 - soft Dice), Dice averaged over images and foreground classes.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64 class numbers, 0 = background.

    Returns:
        Scalar float32. Source: Milletari et al., V-Net (3DV 2016) for the Dice term.
    """
    logits = logits.float()
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].float()  # (B, K - 1, H, W)
    probability = logits.softmax(dim=1)[:, 1:]
    overlap = (probability * truth).sum(dim=(2, 3))
    size = probability.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    dice = (2 * overlap + 1) / (size + 1)
    return F.cross_entropy(logits, target) + 1 - dice.mean()
