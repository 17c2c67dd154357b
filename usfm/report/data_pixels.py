"""Grey levels and spectra of sampled images, summed up over an organ.

Spectra are taken where USFM masks them: on the whole image squeezed to a square of the encoder's side, over
radial frequency in cycles per image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["SPECTRUM_PX", "PixelNumbers", "band_shares", "pixel_numbers", "power_spectrum", "radial_mean"]

SPECTRUM_PX = 224
BLACK, WHITE = 8, 248  # grey levels below and above which an image carries next to nothing
LEAST_POWER = 1e-4  # squared grey levels; rounding to whole grey levels alone adds 1/12


@dataclass(frozen=True)
class PixelNumbers:
    """Over the sampled images of one organ, each image weighing the same.

    Attributes:
        images: how many.
        mean: grey level of 0..255, mean over images.
        mean_std: standard deviation of the images' means: how unlike in brightness the images are.
        std: standard deviation of grey levels within an image, mean over images.
        black: share of pixels below `BLACK`, mean over images.
        white: share of pixels from `WHITE` on.
        histogram: (256,) share of each grey level.
        power_db: (112,) mean over images of 10 log10 of the power at 1, 2, ... cycles per image.
        power_low_db: (112,) 10th percentile over images.
        power_high_db: (112,) 90th percentile.
        band_shares: share of the power that changes (all but the mean level) in each of the bands, the last
            entry beyond them.
    """

    images: int
    mean: float
    mean_std: float
    std: float
    black: float
    white: float
    histogram: npt.NDArray[np.float64]
    power_db: npt.NDArray[np.float64]
    power_low_db: npt.NDArray[np.float64]
    power_high_db: npt.NDArray[np.float64]
    band_shares: npt.NDArray[np.float64]


def pixel_numbers(images: Iterable[npt.NDArray[np.uint8]], radii: list[int]) -> PixelNumbers:
    """Numbers of some (H, W) images of any sizes.

    Args:
        images: at least one.
        radii: rising radii in cycles per image that bound the bands; the first band is d <= radii[0].
    """
    means, stds, histograms, spectra, shares = [], [], [], [], []
    for pixels in images:
        counted = np.bincount(pixels.ravel(), minlength=256) / pixels.size
        histograms.append(counted)
        means.append(float(pixels.mean()))
        stds.append(float(pixels.std()))
        power = power_spectrum(pixels)
        spectra.append(10 * np.log10(np.maximum(radial_mean(power), LEAST_POWER)))
        shares.append(band_shares(power, radii))
    histogram = np.mean(histograms, axis=0)
    low, high = np.percentile(spectra, [10, 90], axis=0)
    return PixelNumbers(
        images=len(means),
        mean=float(np.mean(means)),
        mean_std=float(np.std(means)),
        std=float(np.mean(stds)),
        black=float(histogram[:BLACK].sum()),
        white=float(histogram[WHITE:].sum()),
        histogram=histogram,
        power_db=np.mean(spectra, axis=0),
        power_low_db=low,
        power_high_db=high,
        band_shares=np.mean(shares, axis=0),
    )


def power_spectrum(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Power of every frequency of an image.

    The image is squeezed to `SPECTRUM_PX` a side (averaged where it shrinks, bilinear where it grows), its weighted
    mean removed, weighted by a Hann window on both axes, and normalised by the window's energy: noise of
    variance v has the power v at every frequency, in squared grey levels.

    Args:
        pixels: (H, W) uint8.

    Returns:
        (224, 224), zero frequency at [0, 0].
    """
    size = SPECTRUM_PX
    shrinks = min(pixels.shape) >= size
    square = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    window = _window(size)
    grey = square.astype(np.float64)
    grey = (grey - (grey * window).sum() / window.sum()) * window
    power: npt.NDArray[np.float64] = np.abs(np.fft.fft2(grey)) ** 2 / (window**2).sum()
    return power


def radial_mean(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over the rings of radius 1, 2, ... N / 2 cycles per image of an (N, N) spectrum.

    A frequency belongs to the ring of its rounded Euclidean distance to zero.
    """
    rings = np.rint(_distance(len(power))).astype(np.int64).ravel()
    sums, members = np.bincount(rings, power.ravel()), np.bincount(rings)
    mean: npt.NDArray[np.float64] = (sums / members)[1 : len(power) // 2 + 1]
    return mean


def band_shares(power: npt.NDArray[np.float64], radii: list[int]) -> npt.NDArray[np.float64]:
    """Share of an (N, N) spectrum's power in d <= R_0, R_0 < d <= R_1, ... and beyond; zeros for a flat image."""
    bands = np.searchsorted(radii, _distance(len(power)), "left").ravel()
    parts = np.bincount(bands, power.ravel(), minlength=len(radii) + 1)
    total = parts.sum()
    shares: npt.NDArray[np.float64] = parts / total if total > LEAST_POWER else np.zeros(len(parts))
    return shares


@cache
def _window(size: int) -> npt.NDArray[np.float64]:
    hann = np.hanning(size + 1)[:-1]
    window: npt.NDArray[np.float64] = hann[:, None] * hann[None, :]
    return window


@cache
def _distance(size: int) -> npt.NDArray[np.float64]:
    """(N, N) distance of every frequency to zero, in cycles per image."""
    cycles = np.fft.fftfreq(size, 1 / size)
    distance: npt.NDArray[np.float64] = np.hypot(cycles[:, None], cycles[None, :])
    return distance
