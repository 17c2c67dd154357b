"""The spatial loss: mean absolute error over hidden pixels.

Known: USFM has a spatial loss against the clean image (known). Likely: this formula.
Source: SimMIM (Xie et al., CVPR 2022), Sec. 3.
"""

import torch

__all__ = ["spatial_loss"]


def spatial_loss(predicted: torch.Tensor, target: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Mean |x - x_rec| over hidden pixels: sum / (count * C) (likely).

    Args:
        predicted: (B, C, S, S).
        target: (B, C, S, S), the clean image (known).
        hidden: (B, S, S) bool, True = hidden. With nothing hidden the loss is zero.

    Returns:
        Scalar float32.
    """
    error = (predicted.float() - target.float()).abs() * hidden[:, None]
    return error.sum() / (hidden.sum() * predicted.shape[1]).clamp(min=1)
