"""What a frame is that one may not want to learn from: colour Doppler, a frozen picture, no picture."""

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.cleaning.text import wide_colour

__all__ = ["change", "doppler_share", "spread"]

Pixels = npt.NDArray[np.uint8]
LIT = 8  # darker pixels never change, and would hide the change of the others


def doppler_share(chroma: Pixels | None) -> float:
    """Share of a frame (H, W) that is coloured by area; thin coloured lines and letters do not count.

    Args:
        chroma: largest minus smallest colour channel, None = a grey frame.
    """
    return 0.0 if chroma is None else float(wide_colour(chroma).mean())


def change(pixels: Pixels, before: Pixels) -> float:
    """Mean absolute difference of two frames of one size, in grey levels, over what is lit in either."""
    lit = cv2.max(pixels, before) > LIT
    count = int(np.count_nonzero(lit))
    return float(cv2.absdiff(pixels, before)[lit].mean()) if count else 0.0


def spread(pixels: Pixels) -> float:
    """Standard deviation of the grey levels."""
    return float(cv2.meanStdDev(pixels)[1][0, 0])
