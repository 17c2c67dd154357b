"""The physics of simulated B-mode images: speckle, attenuation, log compression, sector geometry.

Simple but physically flavoured: fully developed speckle is the envelope of band-limited complex Gaussian
noise (Rayleigh distributed; Wagner et al., "Statistics of speckle in ultrasound B-scans", IEEE T-SU 1983),
weighted with the square root of the echo strength, attenuated with depth, log-compressed. Sector images are
made in beam coordinates and scan-converted, so their speckle widens with depth as a real one's does.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["SIDE", "Grid", "Phantom", "axes", "b_mode", "speckle"]

Grid = npt.NDArray[np.float32]
SIDE = 256
DYNAMIC_RANGE_DB = 55.0
GAMMA = 1.6  # of the display: tissue darker, as scanners show it
FAN_HALF_ANGLE = 0.66  # rad
FAN_APEX = -0.12  # of the image's height: above its upper edge


@dataclass(frozen=True)
class Phantom:
    """Echo strength (power, 1 = bright tissue), class numbers, and whether a sector probe looks at it."""

    echo: Grid
    mask: npt.NDArray[np.uint8] | None = None
    sector: bool = False
    label: str = ""


def b_mode(phantom: Phantom, rng: np.random.Generator, attenuation: float = 1.2) -> npt.NDArray[np.uint8]:
    """A B-mode image of a phantom: (SIDE, SIDE) uint8, black outside the fan of a sector probe.

    Args:
        phantom: what lies there.
        rng: draws of the speckle.
        attenuation: amplitude falls by exp(-attenuation) over the depth, after gain compensation.
    """
    echo = _to_beams(phantom.echo) if phantom.sector else phantom.echo
    depth = np.linspace(0, 1, echo.shape[0], dtype=np.float32)[:, None]
    envelope = speckle(echo, rng) * np.exp(-attenuation * depth)
    level = 20 * np.log10(envelope / np.percentile(envelope, 99.7) + 1e-6)
    grey = np.clip(1 + level / DYNAMIC_RANGE_DB, 0, 1).astype(np.float32) ** GAMMA * 255
    return np.rint(_from_beams(grey) if phantom.sector else grey).astype(np.uint8)


def speckle(echo: Grid, rng: np.random.Generator) -> Grid:
    """The envelope of fully developed speckle: Rayleigh distributed where the echo strength is even.

    Args:
        echo: (H, W) echo strength, rows along the beam.
        rng: draws of the scatterers.
    """
    amplitude = np.sqrt(np.maximum(echo, 0))
    noise = rng.standard_normal((2, *echo.shape), dtype=np.float32)
    # the point spread function is narrow along the beam and wide across it
    real, imaginary = (cv2.GaussianBlur(amplitude * part, (0, 0), sigmaX=2.0, sigmaY=0.8) for part in noise)
    envelope: Grid = np.hypot(real, imaginary)
    return envelope


def _fan() -> tuple[Grid, Grid]:
    """Range (0..1 from the skin to full depth) and angle (-1..1) of every pixel."""
    y, x = axes()
    y, x = y - FAN_APEX, x - 0.5
    return (np.hypot(x, y) + FAN_APEX).astype(np.float32), (np.arctan2(x, y) / FAN_HALF_ANGLE).astype(np.float32)


def _to_beams(image: Grid) -> Grid:
    r, angle = axes()
    radius, theta = r - FAN_APEX, (2 * angle - 1) * FAN_HALF_ANGLE
    x, y = 0.5 + radius * np.sin(theta), FAN_APEX + radius * np.cos(theta)
    beams: Grid = cv2.remap(
        image, x * (SIDE - 1), y * (SIDE - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return beams


def _from_beams(beams: Grid) -> Grid:
    r, angle = _fan()
    columns, rows = (angle + 1) / 2 * (SIDE - 1), r * (SIDE - 1)
    image: Grid = cv2.remap(beams, columns, rows, cv2.INTER_LINEAR)
    image[(np.abs(angle) > 1) | (r < 0) | (r > 1)] = 0
    return image


def axes() -> tuple[Grid, Grid]:
    """Row and column of every pixel, 0..1."""
    line = np.linspace(0, 1, SIDE, dtype=np.float32)
    y, x = np.meshgrid(line, line, indexing="ij")
    return y, x
