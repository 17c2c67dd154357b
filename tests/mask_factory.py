"""Small masks as files. For tests alone."""

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image


def encode(pixels: npt.NDArray[np.uint8], form: str = "PNG", mode: str | None = None) -> bytes:
    stream = BytesIO()
    image = Image.fromarray(pixels)
    if mode == "P":
        palette = Image.new("P", image.size)
        palette.putdata(pixels.ravel().tolist())
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image = palette
    image.save(stream, form)
    return stream.getvalue()


SQUARES = np.zeros((16, 24), np.uint8)
SQUARES[2:6, 2:8] = 1
SQUARES[9:14, 12:20] = 2


def files(**contents: bytes) -> dict[str, bytes]:
    return {f"/archive/{name.replace('_', '.')}": data for name, data in contents.items()}
