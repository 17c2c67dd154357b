"""Bytes that a client sent to one grey image: sizes are checked in the header, one frame is chosen.

Decoding itself is `usfm.data.readers.decode`, the same code that made the training data.
"""

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

from usfm.data.readers.decode import read_bytes, sniff
from usfm.data.readers.frames import MAX_FRAME_PIXELS, evenly_spaced
from usfm.errors import ImageTooLarge, NoSuchFrame, UnreadableFile

__all__ = ["MAX_DECODED_PIXELS", "Decoded", "decode"]

MAX_DECODED_PIXELS = 128_000_000
"""Of all frames that have to be decoded to reach the one that is wanted; bounds the memory of a request."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One grey image, ready for a model.

    Attributes:
        pixels: (H, W) uint8.
        spacing_mm: side of a square pixel in mm, None where the file does not state one.
        frame: its number in the file.
        frames: frames in the file.
        kind: "still" or "dicom".
    """

    pixels: npt.NDArray[np.uint8]
    spacing_mm: float | None = None
    frame: int = 0
    frames: int = 1
    kind: str = "still"


def decode(data: bytes, name: str = "", frame: int = 0, max_pixels: int = MAX_FRAME_PIXELS) -> Decoded:
    """Decode one frame of a still image or a DICOM file.

    Args:
        data: the whole file.
        name: its name, for messages only; the bytes decide what it is.
        frame: number of the frame, from 0.
        max_pixels: of one frame.

    Raises:
        ImageTooLarge: more pixels than `max_pixels`, or too many frames to reach the one that is wanted.
        NoSuchFrame: says how many frames there are.
        UnreadableFile: empty, damaged, a clip, or no image at all.
    """
    kind = sniff(data[:132])
    if kind == "clip":
        raise UnreadableFile("a clip; send one of its frames as PNG, JPEG or DICOM")
    width, height, frames = _stated(data, kind)
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the header states {width} x {height} pixels; at most {max_pixels / 1e6:g} megapixels are accepted"
        )
    if not 0 <= frame < frames:
        held = "1 frame, number 0" if frames == 1 else f"{frames} frames, numbers 0 to {frames - 1}"
        raise NoSuchFrame(f"no frame {frame} here; the file has {held}")
    # the reader spreads frames evenly; this is the least number of them that includes the one wanted
    count = next(n for n in range(1, frames + 1) if frame in evenly_spaced(frames, n))
    if count * width * height > MAX_DECODED_PIXELS:
        raise ImageTooLarge(
            f"frame {frame} of {frames} at {width} x {height} pixels is too much to decode; send it as its own file"
        )
    found = next((f for f in read_bytes(data, name, count) if f.index == frame), None)
    if found is None:
        raise UnreadableFile(f"frame {frame} of {frames} is damaged and cannot be decoded")
    return Decoded(found.pixels, found.spacing_mm, frame, frames, kind)


def _stated(data: bytes, kind: str) -> tuple[int, int, int]:
    """Width, height and frames as the header states them; (0, 0, 1) where it cannot be read.

    What is wrong with a header is said by the reader afterwards, so any failure of a foreign parser is let pass.
    """
    try:
        if kind == "dicom":
            dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True)
            frames = int(dataset.get("NumberOfFrames") or 1)
            return int(dataset.Columns), int(dataset.Rows), max(frames, 1)
        if kind == "still":
            with Image.open(BytesIO(data)) as image:
                # a JPEG's further pictures (MPO) are previews, not frames
                frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
                return image.width, image.height, frames
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(str(error)) from None
    except Exception:
        pass
    return 0, 0, 1
