"""Loss of predicted numbers."""

import torch
import torch.nn.functional as F

__all__ = ["regression_loss"]


def regression_loss(predicted: torch.Tensor, target: torch.Tensor, deviation: float) -> torch.Tensor:
    """Smooth absolute error in units of the targets' deviation: quadratic below one deviation, linear above.

    Args:
        predicted: (B, 1) in any unit.
        target: (B, 1) in the same unit.
        deviation: standard deviation of the training targets, above 0.

    Returns:
        Scalar float32. Source: Huber (1964) with his constant at one deviation.
    """
    return F.smooth_l1_loss(predicted.float() / deviation, target.float() / deviation)
