"""A stated model of how ultrasound images get worse, for training pairs of enhancement and for robustness.

A B-mode image is a log-compressed echo amplitude, so what multiplies the echo adds to the grey value: a change of
x dB moves grey by x / `RANGE_DB`. Rows are depth, the transducer is at the top. Lengths are shares of the image's
sides, so a strength means the same at every size. Black stays black: where no echo is shown (outside the sector)
nothing is multiplied. Everything is drawn from (seed, sample index), on the device, for a whole batch.

Source: speckle as the modulus of a circular Gaussian field through the point spread function (Goodman 1975; Wagner
et al. 1983), time-gain compensation and log compression as in textbooks of B-mode imaging; the ranges are our own.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.draws import uniform
from usfm.errors import ConfigError
from usfm.rng import stream_key

__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "DegradeConfig", "corrupt", "degrade"]

Corruption = Literal["blur", "contrast", "speckle", "shadow", "gain", "resolution"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
RANGE_DB = 50.0  # displayed dynamic range: grey 0 to 1
FLOOR = 10 / 255  # below this grey value a change in dB fades out
# sd of the point spread function that correlates speckle, shares of the sides: axial, lateral
SPECKLE_AXIAL, SPECKLE_LATERAL = 0.006, 0.014
SEVERITIES: Mapping[Corruption, tuple[float, float, float]] = {
    "blur": (0.006, 0.012, 0.024),
    "contrast": (1.5, 2.5, 4.0),
    "speckle": (0.4, 0.7, 0.95),
    "shadow": (10.0, 20.0, 40.0),
    "gain": (6.0, 12.0, 24.0),
    "resolution": (2.0, 3.0, 5.0),
}
# the strength that changes nothing
NOTHING: Mapping[Corruption, float] = {**dict.fromkeys(CORRUPTIONS, 0.0), "contrast": 1.0, "resolution": 1.0}
Range = tuple[float, float]


class DegradeConfig(Config):
    """Ranges of strength of random degradations; each is (least, most), drawn uniformly per image.

    The order is that of the physics: shadow and speckle arise in the body, blur and resolution in the beam, gain
    and contrast at the screen.

    Attributes:
        chance: probability that a corruption touches an image at all, for each corruption by itself.
        blur: sd of a Gaussian point spread function across the beam, share of the width; along it half as much.
        contrast: displayed dynamic range, as a multiple of the image's own, at the same mean brightness.
        speckle: share of the echo that is replaced by fully developed speckle, in [0, 1).
        shadow: dB that are lost behind an absorber, at its shadow's middle.
        gain: largest error of the time-gain compensation over depth, dB.
        resolution: pixels per scan line; half as coarse along depth, and never finer than 1.
    """

    chance: float = Field(default=0.5, ge=0, le=1)
    blur: Range = (0.0, 0.015)
    contrast: Range = (1.0, 2.5)
    speckle: Range = (0.1, 0.7)
    shadow: Range = (0.0, 10.0)
    gain: Range = (0.0, 10.0)
    resolution: Range = (1.0, 3.0)

    @model_validator(mode="after")
    def _inside(self) -> "DegradeConfig":
        for kind in CORRUPTIONS:
            low, high = getattr(self, kind)
            least = NOTHING[kind]
            if not least <= low <= high or not math.isfinite(high):
                raise ValueError(f"{kind} {(low, high)} is not a range that starts at {least:g} or above")
        if self.speckle[1] >= 1:
            raise ValueError(f"speckle {self.speckle} reaches 1; the share of speckle is below 1")
        return self


def degrade(images: torch.Tensor, index: torch.Tensor, config: DegradeConfig, seed: int) -> torch.Tensor:
    """Worse copies of clean images, a pure function of (seed, index).

    Args:
        images: (B, 1, H, W) float32 in [0, 1].
        index: (B,) int64 global sample indices; the same image is degraded anew each time it comes round.
        config: ranges.
        seed: of the run.

    Returns:
        (B, 1, H, W) float32 in [0, 1].
    """
    index = index.to(images.device)
    for kind in _ORDER:
        draws = uniform(stream_key(seed, "degrade", kind), index, 2)  # (B, 2)
        low, high = getattr(config, kind)
        strength = low + (high - low) * draws[:, 0]
        strength = torch.where(draws[:, 1] < config.chance, strength, torch.full_like(strength, NOTHING[kind]))
        images = _TABLE[kind](images, strength, index, stream_key(seed, "degrade field", kind))
    return images


def corrupt(images: torch.Tensor, kind: Corruption, severity: int, index: torch.Tensor, seed: int) -> torch.Tensor:
    """One corruption at a fixed strength (`SEVERITIES`), for robustness; where and how it falls is drawn.

    The same (seed, index) at a higher severity is the same pattern, stronger.

    Args:
        images: (B, 1, H, W) float32 in [0, 1].
        kind: one of `CORRUPTIONS`.
        severity: 1 to 3; 0 gives the images back.
        index: (B,) int64 numbers of the images.
        seed: of the patterns.

    Returns:
        (B, 1, H, W) float32 in [0, 1].

    Raises:
        ConfigError: an unknown kind or severity.
    """
    if kind not in _TABLE or not 0 <= severity <= 3:
        raise ConfigError(
            f"no corruption {kind!r} of severity {severity}; kinds: {CORRUPTIONS}, severities: 0 to 3"
        )
    strength = NOTHING[kind] if severity == 0 else SEVERITIES[kind][severity - 1]
    index = index.to(images.device)
    amount = torch.full((len(images),), strength, dtype=torch.float32, device=images.device)
    return _TABLE[kind](images, amount, index, stream_key(seed, "degrade field", kind))


def _blur(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """A defocused beam: the point spread function is a Gaussian, twice as wide across the beam as along it."""
    high, wide = images.shape[-2:]
    return _separable(images, _gaussian(strength / 2 * high, high), _gaussian(strength * wide, wide)).clamp(0, 1)


def _resolution(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """Fewer scan lines, and fewer samples along them: each averages its cell, the screen interpolates."""
    high, wide = images.shape[-2:]
    return _separable(images, _coarse((strength / 2).clamp_min(1), high), _coarse(strength, wide)).clamp(0, 1)


def _speckle(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """Multiplicative speckle: echo times (1 - s) + s R, R a Rayleigh field of mean 1, correlated by a PSF."""
    count, _, high, wide = images.shape
    draws = uniform(key, index, 2 * high * wide).view(count, 2, high, wide)
    radius, angle = torch.sqrt(-2 * torch.log1p(-draws[:, :1])), 2 * math.pi * draws[:, 1:]
    field = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)  # (B, 2, H, W) standard normal
    sides = []
    for sd, size in ((SPECKLE_AXIAL, high), (SPECKLE_LATERAL, wide)):
        kernel = _gaussian(torch.full_like(strength, sd * size), size)
        sides.append(kernel / kernel.square().sum(dim=-1, keepdim=True).sqrt())  # keeps the variance at 1
    rayleigh = _separable(field, *sides).square().sum(dim=1, keepdim=True).sqrt() / math.sqrt(math.pi / 2)
    share = strength[:, None, None, None]
    return _add_db(images, 20 * torch.log10(1 - share + share * rayleigh))


def _shadow(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """An absorber near the top: behind it a cone, wider with depth, in which the echo loses up to the given dB."""
    at, start, wide, slope = uniform(key, index, 4).T[:, :, None, None, None]
    y, x = _axes(images)
    depth = y - (0.05 + 0.3 * start)  # below the absorber
    half = 0.06 + 0.08 * wide + (0.05 + 0.15 * slope) * depth.clamp_min(0)
    across = (x - (0.2 + 0.6 * at)).abs() / half
    inside = torch.sigmoid((1 - across) * 6)  # a soft edge, one sixth of the width
    onset = (depth / 0.1).clamp(0, 1)
    return _add_db(images, -strength[:, None, None, None] * inside * onset)


def _gain(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """Wrong time-gain compensation: attenuation over- or undercorrected with depth, and uneven sliders."""
    tilt, first, second = uniform(key, index, 3).T[:, :, None, None, None]
    y, _ = _axes(images)
    sign = torch.where(tilt < 0.5, -1.0, 1.0)
    # 0.7 + 0.2 + 0.1: the curve never leaves [-1, 1]
    curve = 0.7 * sign * (2 * y - 1)
    curve = curve + 0.2 * torch.cos(2 * math.pi * (2 * y + first)) + 0.1 * torch.cos(2 * math.pi * (4 * y + second))
    return _add_db(images, strength[:, None, None, None] * curve)


def _contrast(images: torch.Tensor, strength: torch.Tensor, index: torch.Tensor, key: int) -> torch.Tensor:
    """Log compression to a wider dynamic range, the gain reset so that the mean grey of what shows stays."""
    shown = (images > FLOOR).float()
    mean = (images * shown).sum(dim=(1, 2, 3), keepdim=True) / shown.sum(dim=(1, 2, 3), keepdim=True).clamp_min(1)
    flatter = 1 - 1 / strength[:, None, None, None]
    return (images + _echo(images) * flatter * (mean - images)).clamp(0, 1)


_Corrupting = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
_TABLE: Mapping[Corruption, _Corrupting] = {
    "blur": _blur,
    "contrast": _contrast,
    "speckle": _speckle,
    "shadow": _shadow,
    "gain": _gain,
    "resolution": _resolution,
}
_ORDER: tuple[Corruption, ...] = ("shadow", "speckle", "blur", "resolution", "gain", "contrast")


def _echo(images: torch.Tensor) -> torch.Tensor:
    """1 where an echo is shown, 0 where the screen is black, linear between grey 0 and `FLOOR`."""
    return (images / FLOOR).clamp(max=1)


def _add_db(images: torch.Tensor, change_db: torch.Tensor) -> torch.Tensor:
    return (images + _echo(images) * change_db / RANGE_DB).clamp(0, 1)


def _axes(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel centres in [0, 1]: depth (1, 1, H, 1) and across (1, 1, 1, W)."""
    y, x = ((torch.arange(n, dtype=torch.float32, device=images.device) + 0.5) / n for n in images.shape[-2:])
    return y[None, None, :, None], x[None, None, None, :]


def _separable(images: torch.Tensor, along: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Every image times its own matrices along depth (B, H, H) and across (B, W, W)."""
    return along[:, None] @ images @ across[:, None].mT


def _gaussian(sd_px: torch.Tensor, size: int) -> torch.Tensor:
    """Rows that average with Gaussian weights and sum to one, (B, n, n); sd 0 is the identity."""
    at = torch.arange(size, dtype=torch.float32, device=sd_px.device)
    distance = (at[:, None] - at[None, :])[None] / sd_px.clamp_min(1e-3)[:, None, None]
    weight = torch.exp(-0.5 * distance.square())
    return weight / weight.sum(dim=-1, keepdim=True)


def _coarse(step_px: torch.Tensor, size: int) -> torch.Tensor:
    """Cells of `step_px` pixels are averaged and linearly interpolated again, (B, n, n); step 1 is the identity."""
    step = step_px[:, None, None]
    at = torch.arange(size, dtype=torch.float32, device=step_px.device)
    left, right = at[None, :, None] * step, (at[None, :, None] + 1) * step
    # (B, cell, pixel): what a cell covers of each pixel; cells beyond the image cover nothing
    covered = (torch.minimum(right, at + 1) - torch.maximum(left, at)).clamp_min(0)
    whole = covered.sum(dim=-1, keepdim=True)
    mean = covered / whole.clamp_min(1e-6)
    distance = ((at[None, :, None] + 0.5) / step - (at[None, None, :] + 0.5)).abs()
    weight = (1 - distance).clamp_min(0) * (whole > 1e-3).mT  # (B, pixel, cell)
    return weight / weight.sum(dim=-1, keepdim=True) @ mean
