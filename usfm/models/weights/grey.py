"""Three-channel patch embeddings as one-channel ones and back, exactly, for grey images.

A colour model sees a grey value g in [0, 1] three times and normalises each channel by its own mean m_c and
deviation s_c. Its embedding sum_c W_c * (g - m_c) / s_c + b is linear in g, so one kernel on (g - m) / s gives the
same:

    W = sum_c W_c s / s_c        b' = b + sum_c (sum over pixels of W_c) (m - m_c) / s_c
"""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)

from usfm.models.encoder import EncoderConfig

__all__ = [
    "NORMALISATIONS",
    "Normalisation",
    "normalisation_of",
    "refit_patch_embedding",
    "stated_normalisation",
]


class Normalisation(NamedTuple):
    """What a model subtracts from and divides by, a value per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# what a user can name; "equal" = this project's grey mean and deviation in every channel
NORMALISATIONS = {
    "imagenet": Normalisation(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    "half": Normalisation(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    "equal": Normalisation((EncoderConfig().mean,) * 3, (EncoderConfig().std,) * 3),
}


def stated_normalisation(folder: Path) -> Normalisation | None:
    """What timm's `config.json` in a folder says, as on the hub; None = there is none, or it says nothing."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stated = document["pretrained_cfg"]
        return Normalisation(tuple(map(float, stated["mean"])), tuple(map(float, stated["std"])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def normalisation_of(config: EncoderConfig) -> Normalisation:
    """How an encoder of ours normalises its input."""
    if config.channels == 1:
        return Normalisation((config.mean,), (config.std,))
    return Normalisation(config.channel_mean, config.channel_std)


def refit_patch_embedding(
    weight: torch.Tensor, bias: torch.Tensor, source: Normalisation, target: Normalisation
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch embedding for another normalisation and number of channels; equal on every grey image.

    Args:
        weight: (D, C, P, P).
        bias: (D,).
        source: what `weight` was trained with, C channels.
        target: what the new one will be given.

    Returns:
        Kernel (D, C', P, P) and bias (D,), of the same dtype; the same tensors if nothing changes. Where C' > C
        each channel gets the same share.
    """
    if source == target:
        return weight, bias
    kernel, deviations = weight.double(), torch.tensor(source.std, dtype=torch.float64)
    per_grey = kernel / deviations[:, None, None]  # (D, C, P, P): weight of the grey value itself
    means = torch.tensor(source.mean, dtype=torch.float64)
    offset = bias.double() - (per_grey.sum(dim=(2, 3)) * means).sum(dim=1)  # at g = 0
    whole = per_grey.sum(dim=1, keepdim=True)  # (D, 1, P, P)
    new_std = torch.tensor(target.std, dtype=torch.float64)
    new_mean = torch.tensor(target.mean, dtype=torch.float64)
    new_kernel = whole * new_std[:, None, None] / len(target.std)  # (D, C', P, P)
    new_bias = offset + whole.sum(dim=(1, 2, 3)) * new_mean.mean()
    return new_kernel.to(weight.dtype), new_bias.to(bias.dtype)
