"""Pictures inside a page: pixels and stored files as data URIs, numbers as colours."""

import base64
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

from usfm.predict.render import png_base64

__all__ = ["file_uri", "heat", "png_uri"]


def png_uri(pixels: npt.NDArray[Any]) -> str:
    """(H, W) or (H, W, 3) uint8, or float in [0, 1], as a data URI."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    return "data:image/png;base64," + png_base64(pixels)


def file_uri(image: bytes) -> str:
    """A PNG or JPEG file as a data URI."""
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"  # what shards hold
    return f"data:image/{kind};base64," + base64.b64encode(image).decode("ascii")


def heat(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """(H, W) float in [0, 1] in colours from black to yellow, (H, W, 3) uint8."""
    coloured: npt.NDArray[np.uint8] = matplotlib.colormaps["inferno"](values, bytes=True)[..., :3]
    return coloured
