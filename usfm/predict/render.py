"""Answers that can be looked at: PNG as base64, class colours, an overlay."""

import base64
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["class_colour", "overlay", "png_base64"]

# Okabe and Ito's colours: they stay apart for colour-blind eyes, and on grey
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


def class_colour(index: int) -> str | None:
    """Colour of class `index` as #rrggbb; None for 0, the background."""
    return None if index == 0 else _COLOURS[(index - 1) % len(_COLOURS)]


def png_base64(pixels: npt.NDArray[np.uint8]) -> str:
    """(H, W) or (H, W, 3) uint8 as a base64 PNG."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def overlay(
    pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], opacity: float = 0.45
) -> npt.NDArray[np.uint8]:
    """Class colours laid over a grey image.

    Args:
        pixels: (H, W) uint8.
        mask: (H, W) uint8 class indices, 0 = background, left as it is.
        opacity: of the colours, in [0, 1].

    Returns:
        (H, W, 3) uint8.
    """
    colours = np.zeros((256, 3), np.float32)
    for index in range(1, 256):
        colours[index] = [int((class_colour(index) or "")[k : k + 2], 16) for k in (1, 3, 5)]
    share = np.where(mask > 0, np.float32(opacity), np.float32(0))[..., None]  # (H, W, 1)
    mixed = pixels[..., None] * (1 - share) + colours[mask] * share  # (H, W, 3)
    blended: npt.NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return blended
