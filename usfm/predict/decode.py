"""Bytes that a client sent to one grey image: sizes are checked in the header, one frame is chosen.

Decoding itself is `usfm.data.readers.decode`, the same code that made the training data.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usfm.data.readers.decode import HEAD_BYTES, open_bytes, read_bytes, sniff
from usfm.data.readers.frames import MAX_FRAME_PIXELS, Box
from usfm.data.readers.stack import frames_held
from usfm.errors import ImageTooLarge, NoSuchFrame, UnreadableFile

__all__ = ["MAX_DECODED_PIXELS", "Decoded", "decode"]

MAX_DECODED_PIXELS = 128_000_000
"""Of all frames that have to be decoded to reach the one that is wanted; bounds the time of a request."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One grey image, ready for a model.

    Attributes:
        pixels: (H, W) uint8.
        spacing_mm: side of a square pixel in mm, None where the file does not state one.
        frame: its number in the file.
        frames: frames in the file.
        kind: "still" or "dicom".
        chroma: (H, W) uint8, largest minus smallest colour channel; None = the file is grey.
        region: the B-mode region as the file states it (DICOM), None = not stated.
    """

    pixels: npt.NDArray[np.uint8]
    spacing_mm: float | None = None
    frame: int = 0
    frames: int = 1
    kind: str = "still"
    chroma: npt.NDArray[np.uint8] | None = None
    region: Box | None = None


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
        UnreadableFile: empty, damaged, a clip or a volume, or no image at all.
    """
    kind = sniff(data[:HEAD_BYTES], name)
    if kind in ("clip", "volume"):
        raise UnreadableFile(f"a {kind}; send one of its frames as PNG, JPEG or DICOM")
    stack = open_bytes(data, name)
    width, height, frames = stack.width, stack.height, stack.count
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the header states {width} x {height} pixels; at most {max_pixels / 1e6:g} megapixels are accepted"
        )
    if not 0 <= frame < frames:
        raise NoSuchFrame(f"no frame {frame} here; the file has {frames_held(frames)}")
    if stack.decoded_for(frame) * width * height > MAX_DECODED_PIXELS:
        raise ImageTooLarge(
            f"frame {frame} of {frames} at {width} x {height} pixels is too much to decode; send it as its own file"
        )
    (found,) = read_bytes(data, name, frame=frame)
    return Decoded(found.pixels, found.spacing_mm, frame, frames, kind, found.chroma, found.region)
