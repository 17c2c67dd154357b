"""One decoded grey frame, and the rules every decoder shares: size limits, grey values, which frames."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from usfm.config import Config
from usfm.errors import UnreadableFile

__all__ = [
    "MAX_FRAME_PIXELS",
    "Box",
    "Frame",
    "FrameSelection",
    "check_size",
    "evenly_spaced",
    "to_eight_bits",
    "to_grey",
]

MAX_FRAME_PIXELS = 64_000_000
"""Larger frames are refused from their header: no scanner makes them, decompression bombs do."""


class Box(NamedTuple):
    """A rectangle in px; rows top ... top + height - 1."""

    top: int
    left: int
    height: int
    width: int


class FrameSelection(Config):
    """Which frames of a clip or a multi-frame file are read.

    Attributes:
        max_frames: at most so many.
        method: "uniform" takes evenly spaced frames; "change" takes frames between which equal amounts of
            change (mean absolute grey difference) have passed, so that a still probe gives few look-alikes.
    """

    max_frames: int = Field(default=8, ge=1)
    method: Literal["uniform", "change"] = "uniform"


@dataclass(frozen=True, eq=False)
class Frame:
    """One grey frame of a file.

    Attributes:
        pixels: (H, W) uint8, grey, contiguous.
        index: number of the frame in its file, 0 for a still.
        spacing_mm: size of a square pixel in mm, None where the file does not state one.
        patient: the file's own patient identifier, "" if none. Personal data: hash it, never store it.
        device: scanner (maker and model) as the file states it, "" if it does not.
        chroma: (H, W) uint8, largest minus smallest colour channel; None = the file is grey.
        region: the B-mode region as the file itself states it (DICOM), None = not stated.
        burned_in: the file states that text is burned into its pixels.
    """

    pixels: npt.NDArray[np.uint8]
    index: int = 0
    spacing_mm: float | None = None
    patient: str = ""
    device: str = ""
    chroma: npt.NDArray[np.uint8] | None = None
    region: Box | None = None
    burned_in: bool = False


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` frame numbers out of `count`, first and last included, without repeats."""
    if limit >= count:
        return list(range(count))
    if limit == 1:
        return [count // 2]  # the middle: clips often begin before the probe touches the skin
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def check_size(width: int, height: int) -> None:
    """Refuse a frame by the size that its header states.

    Raises:
        UnreadableFile: no pixels, or more than `MAX_FRAME_PIXELS`.
    """
    if width < 1 or height < 1:
        raise UnreadableFile(f"the header states a size of {width} x {height} pixels")
    if width * height > MAX_FRAME_PIXELS:
        raise UnreadableFile(
            f"the header states {width} x {height} pixels; at most {MAX_FRAME_PIXELS / 1e6:.0f} megapixels are read"
        )


def to_grey(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B; equal channels come out unchanged.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8.
    """
    grey: npt.NDArray[np.uint8] = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return grey


def to_eight_bits(values: npt.NDArray[np.generic], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map low..high linearly to 0..255, rounded; values outside are clipped, a flat range becomes 0."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
