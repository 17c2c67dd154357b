"""The spatial mask of USFM: random mask units, hidden pixels filled with the image's own mean.

Source: USFM (arXiv 2401.00153), spatial noise addition-recovery: the mask and its mean fill are known (from the
authors' data code), the ratio is likely, the unit unknown (SimMIM's).
"""

import math
from typing import Literal

import torch
from pydantic import Field

from usfm.config import Config
from usfm.draws import uniform
from usfm.errors import ConfigError
from usfm.rng import stream_key

__all__ = ["PatchMaskConfig", "fill_hidden", "hidden_units", "patch_mask", "upsample_mask"]


class PatchMaskConfig(Config):
    """The spatial mask, "noise addition-recovery" in the paper's words.

    Attributes:
        unit_px: side M of a mask unit, a multiple of the patch. Unknown: 32 or 16.
        ratio: share r of units that are hidden, ceil(r u^2) of u^2 (known). Likely: 0.6. 0 switches the spatial
            mask off: frequency-only, for ablation.
        fill: what hidden pixels become. Known: "mean", the image's own per channel. "zero" and "noise" are ours,
            for the abstract's wording.
        noise_kind: used by "noise": "gaussian" adds std z to a pixel, "speckle" adds std z times the pixel, as
            multiplicative noise of ultrasound does; z is standard normal. Unknown.
        noise_std: standard deviation of z's factor, for images in [0, 1]. Unknown.
    """

    unit_px: int = Field(default=32, ge=1)
    ratio: float = Field(default=0.6, ge=0, le=1)
    fill: Literal["mean", "zero", "noise"] = "mean"
    noise_kind: Literal["gaussian", "speckle"] = "gaussian"
    noise_std: float = Field(default=0.25, gt=0)


def hidden_units(size_px: int, patch_px: int, config: PatchMaskConfig) -> tuple[int, int]:
    """Units per side u = S / M, and how many of the u * u are hidden, ceil(r u * u).

    Raises:
        ConfigError: unless the unit divides the image and the patch divides the unit.
    """
    if size_px % config.unit_px or config.unit_px % patch_px:
        raise ConfigError(
            f"mask unit of {config.unit_px} px: it must divide the image ({size_px} px) and be a multiple of "
            f"the patch ({patch_px} px)"
        )
    units = size_px // config.unit_px
    return units, math.ceil(round(config.ratio * units * units, 9))


def patch_mask(
    index: torch.Tensor, size_px: int, patch_px: int, config: PatchMaskConfig, seed: int
) -> torch.Tensor:
    """Token masks, a pure function of (seed, sample index); units drawn uniformly without replacement (known).

    Args:
        index: (B,) int64 sample indices.
        size_px: image side S.
        patch_px: patch side P.
        config: the mask.
        seed: of the run.

    Returns:
        (B, S // P, S // P) bool, True = hidden.
    """
    units, hidden = hidden_units(size_px, patch_px, config)
    draws = uniform(stream_key(seed, "patch mask"), index, units * units)  # (B, u * u)
    rank = draws.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    mask = (rank < hidden).view(-1, units, units)
    return upsample_mask(mask, config.unit_px // patch_px)


def upsample_mask(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """Repeat each cell of (B, H, W) to a square of factor x factor cells."""
    return mask.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def fill_hidden(
    images: torch.Tensor, hidden: torch.Tensor, config: PatchMaskConfig, index: torch.Tensor, seed: int
) -> torch.Tensor:
    """Replace hidden pixels.

    Args:
        images: (B, C, S, S) float32 in [0, 1]; for the dual mask, already band-stopped.
        hidden: (B, S, S) bool, True = hidden.
        config: what hidden pixels become.
        index: (B,) int64 sample indices, used by `noise` alone.
        seed: of the run, used by `noise` alone.

    Returns:
        (B, C, S, S) float32. "mean" is each image's own mean per channel, over the whole image as given (known).
    """
    if config.fill == "mean":
        fill = images.mean(dim=(2, 3), keepdim=True)
    elif config.fill == "zero":
        fill = images.new_zeros(())
    else:
        pixels = images[0].numel()
        # Box-Muller on counter-based draws: noise that does not depend on the batch or the worker
        draws = uniform(stream_key(seed, "fill noise"), index, 2 * pixels).view(len(images), 2, *images.shape[1:])
        radius = torch.sqrt(-2 * torch.log1p(-draws[:, 0]))
        noise = config.noise_std * radius * torch.cos(2 * math.pi * draws[:, 1])
        fill = (images + (noise * images if config.noise_kind == "speckle" else noise)).clamp(0, 1)
    return torch.where(hidden[:, None], fill, images)
