"""The frequency mask of USFM: whole annuli of the centred Fourier spectrum are stopped, per image.

Source: USFM (arXiv 2401.00153), frequency band-stop masking. The form is known (from the authors' data code); its
parameters are unknown: the defaults reproduce the rings of the paper's figure.
"""

import math
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.draws import uniform
from usfm.errors import ConfigError
from usfm.rng import stream_key

__all__ = [
    "BandStopConfig",
    "band_masks",
    "band_radii",
    "band_stop",
    "choose_bands",
    "half_spectrum",
    "removed_spectrum",
]


PRESETS: dict[str, dict[str, Any]] = {
    "figure": {},
    "fine": {"protect": 8, "base": 16, "growth": 0.2, "max_step": 16},
}


class BandStopConfig(Config):
    """Radii of the bands and the share that is removed. Known: the form. Unknown: every value.

    In a recipe, `frequency_mask: fine` or `frequency_mask: {preset: fine, ratio: 0.5}` starts from a preset; the
    resolved config states its values.

    Attributes:
        protect: R_0, radius in cycles per image of the disc that is never removed (DC, lowest frequencies).
            Unknown; fits the paper's figure.
        base: R_1, outer radius of the first band. Unknown; fits the figure.
        growth: f; a band is floor(f R_k) wide ... Unknown; fits the figure.
        max_step: m; ... but at most this. Unknown; fits the figure.
        ratio: share of the K bands that is removed, floor(ratio K). Unknown; two of three bands. 0 switches the
            frequency mask off: spatial-only, for ablation.
        reference_px: image side for which the radii are given; at another side the finished radii are scaled
            and rounded, so that the bands are the same share of the spectrum. None = never scaled. Ours.
    """

    protect: int = Field(default=16, ge=1)
    base: int = Field(default=45, ge=1)
    growth: float = Field(default=0.72, gt=0)
    max_step: int = Field(default=35, ge=1)
    ratio: float = Field(default=0.67, ge=0, le=1)
    reference_px: int | None = Field(default=224, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        values = {"preset": given} if isinstance(given, str) else given
        if not isinstance(values, dict) or "preset" not in values:
            return given
        if values["preset"] not in PRESETS:
            raise ValueError(f"there is no preset {values['preset']!r}; there are {', '.join(PRESETS)}")
        return PRESETS[values["preset"]] | {key: value for key, value in values.items() if key != "preset"}

    @classmethod
    def preset(cls, name: Literal["figure", "fine"]) -> Self:
        """`figure`: the three rings of the paper's figure. `fine`: about a dozen narrow bands. Both unknown."""
        return cls.build({"preset": name})

    def radii(self, size_px: int) -> list[int]:
        """`band_radii` at this image side."""
        given = band_radii(self.reference_px or size_px, self.protect, self.base, self.growth, self.max_step)
        scale = size_px / (self.reference_px or size_px)
        radii = [min(round(scale * r), size_px // 2) for r in given]
        if radii[0] < 1 or any(a >= b for a, b in zip(radii[:-1], radii[1:], strict=True)):
            raise ConfigError(
                f"the bands {given} of {self.reference_px} px fall together at {size_px} px: {radii}; give wider "
                "bands or set reference_px to null and choose radii for this size"
            )
        return radii

    def removed(self, size_px: int) -> int:
        """How many bands are removed per image, floor(ratio K).

        Raises:
            ConfigError: the mask is on, yet no band would be removed.
        """
        bands = len(self.radii(size_px)) - 1
        removed = math.floor(round(self.ratio * bands, 9))
        if self.ratio > 0 and removed < 1:
            raise ConfigError(
                f"band-stop ratio {self.ratio} of {bands} bands at {size_px} px removes none; raise the ratio, "
                "make bands narrower, or set it to 0 to switch the frequency mask off"
            )
        return removed


def band_radii(size_px: int, protect: int, base: int, growth: float, max_step: int) -> list[int]:
    """Radii R_0 < R_1 < ... < R_K of the band-stop annuli, in cycles per image.

    The recurrence is known, its parameters are not.
    R_0 = protect, R_1 = base, R_{k+1} = R_k + min(floor(growth R_k), max_step) while it is <= size_px // 2.
    Band k removes R_k < d <= R_{k+1}; the disc d <= R_0 and the corners d > R_K are never removed.

    Raises:
        ConfigError: unless 0 < protect < base <= size_px // 2 and every step is at least 1.
    """
    centre = size_px // 2
    if not 0 < protect < base <= centre:
        raise ConfigError(
            f"band radii need 0 < protect < base <= {centre} (half of {size_px} px), "
            f"got protect={protect}, base={base}"
        )
    if math.floor(growth * base) < 1 or max_step < 1:
        raise ConfigError(
            f"bands would not grow: floor({growth} * {base}) and max_step={max_step} must be at least 1"
        )
    radii = [protect, base]
    while (following := radii[-1] + min(math.floor(growth * radii[-1]), max_step)) <= centre:
        radii.append(following)
    return radii


def band_masks(size_px: int, radii: list[int], device: torch.device | None = None) -> torch.Tensor:
    """The bands as a constant (K, N, N) bool in the centred spectrum, True = in the band. The definition is known.

    d is the Euclidean distance to (N // 2, N // 2), where `fftshift` puts DC.
    """
    axis = torch.arange(size_px, device=device) - size_px // 2
    squared = axis[:, None] ** 2 + axis[None, :] ** 2  # integers: the edges are exact
    return torch.stack([(squared > a * a) & (squared <= b * b) for a, b in zip(radii[:-1], radii[1:], strict=True)])


def half_spectrum(masks: torch.Tensor) -> torch.Tensor:
    """The part of centred masks (..., N, N) that `rfft2` keeps, in its order: (..., N, N // 2 + 1) float32.

    A band depends on d alone, so it is the same at k and -k, as is the spectrum of a real image but for its sign:
    the half says it all, at half the work.
    """
    unshifted = torch.fft.ifftshift(masks, dim=(-2, -1))
    halves: torch.Tensor = unshifted[..., : masks.shape[-1] // 2 + 1].float()
    return halves.contiguous()


def choose_bands(index: torch.Tensor, bands: int, removed: int, seed: int) -> torch.Tensor:
    """Which bands are removed, (B, K) bool, True = removed; uniform without replacement, per image (known)."""
    draws = uniform(stream_key(seed, "band stop"), index, bands)
    rank = draws.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < removed


def removed_spectrum(halves: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Union of the chosen bands per image.

    Args:
        halves: (K, N, N // 2 + 1) float32 from `half_spectrum`; bands are disjoint.
        chosen: (B, K) bool, True = removed.

    Returns:
        (B, N, N // 2 + 1) float32 in the order of `rfft2`, 1 = removed, 0 = kept.
    """
    with torch.autocast(device_type=halves.device.type, enabled=False):
        union: torch.Tensor = chosen.float() @ halves.flatten(1)
        return union.view(-1, *halves.shape[1:])


def band_stop(images: torch.Tensor, halves: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Remove the chosen bands, batched, in float32 outside autocast.

    Known: y = |ifft2(ifftshift(B * fftshift(fft2(x))))|. B is symmetric, so that is |irfft2(B' * rfft2(x))| with B'
    the half of B (see `half_spectrum`), at two fifths of the time.

    Args:
        images: (B, C, N, N) float32 in [0, 1]: the absolute value is meant for un-normalised images.
        halves: (K, N, N // 2 + 1) float32 from `half_spectrum`.
        chosen: (B, K) bool, True = removed.

    Returns:
        (B, C, N, N) float32.
    """
    keep = 1 - removed_spectrum(halves, chosen)[:, None]
    with torch.autocast(device_type=images.device.type, enabled=False):
        spectrum = torch.fft.rfft2(images.float())  # (B, C, N, N // 2 + 1)
        stopped: torch.Tensor = torch.fft.irfft2(spectrum * keep, s=images.shape[-2:]).abs()
        return stopped
