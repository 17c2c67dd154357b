"""Lengths and areas of what a mask outlines, in pixels."""

import math

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["ellipse_perimeter", "foreground_area"]

LEAST_POINTS = 5  # of an outline, for an ellipse through them


def ellipse_perimeter(mask: npt.NDArray[np.generic]) -> float:
    """Perimeter of the ellipse that fits the largest connected foreground region best, in pixels.

    OpenCV fits the centres of the outermost pixels, which lie half a pixel inside the region: both axes are one
    pixel longer than its answer (measured on drawn ellipses: a bias below 0.1 %, without it 1.6 % at 40 px).

    Args:
        mask: (H, W), not 0 = foreground.

    Returns:
        The perimeter; 0 where nothing is drawn, or less than five outermost pixels.

    Source: direct least squares fit (Fitzgibbon et al., 1999), which stays near a ragged region where
    `cv2.fitEllipse` may give one many times as large; Ramanujan's second approximation of the perimeter. A fetal
    head's circumference is measured so (van den Heuvel et al., 2018).
    """
    outlines, _ = cv2.findContours((mask != 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea, default=None)
    if outline is None or len(outline) < LEAST_POINTS:
        return 0.0
    _, (one, other), _ = cv2.fitEllipseDirect(outline)
    a, b = (one + 1) / 2, (other + 1) / 2
    ratio = ((a - b) / (a + b)) ** 2
    perimeter: float = math.pi * (a + b) * (1 + 3 * ratio / (10 + math.sqrt(4 - 3 * ratio)))
    return perimeter


def foreground_area(mask: npt.NDArray[np.generic]) -> float:
    """Foreground pixels of a mask, (H, W), not 0 = foreground."""
    return float(np.count_nonzero(mask))
