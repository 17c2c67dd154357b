"""Loss of restored images: absolute error, structure, spectrum."""

import torch
import torch.nn.functional as F
from pydantic import Field

from usfm.config import Config
from usfm.losses.frequency import frequency_loss

__all__ = ["RestorationConfig", "restoration_loss"]


class RestorationConfig(Config):
    """Weights beside that of the absolute error, which is 1.

    Attributes:
        structure: of 1 - SSIM.
        frequency: of the focal frequency loss of pre-training.
    """

    structure: float = Field(default=0.2, ge=0)
    frequency: float = Field(default=0.0, ge=0)


def restoration_loss(predicted: torch.Tensor, target: torch.Tensor, config: RestorationConfig) -> torch.Tensor:
    """Mean absolute error + structure (1 - SSIM) + frequency * focal frequency loss.

    Args:
        predicted: (B, 1, S, S), S of at least 11 px where `structure` counts.
        target: (B, 1, S, S) in [0, 1].
        config: weights.

    Returns:
        Scalar float32. Source: Zhao et al., "Loss functions for image restoration with neural networks" (2017),
        which finds absolute error and structure together better than either; torchmetrics' SSIM.
    """
    predicted, target = predicted.float(), target.float()
    loss = F.l1_loss(predicted, target)
    if config.structure:
        # slow to import, and pre-training does without
        from torchmetrics.functional.image import structural_similarity_index_measure

        loss = loss + config.structure * (
            1 - structural_similarity_index_measure(predicted, target, data_range=1.0)
        )
    if config.frequency:
        loss = loss + config.frequency * frequency_loss(predicted, target)
    return loss
