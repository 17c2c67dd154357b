"""One decoded grey frame, and the rules every decoder shares: size limits, grey values, which frames."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from usfm.config import Config
from usfm.errors import ImageTooLarge, UnreadableFile

__all__ = [
    "EVENLY",
    "MAX_FRAME_PIXELS",
    "Box",
    "Frame",
    "FrameSelection",
    "channel_spread",
    "check_size",
    "evenly_spaced",
    "to_eight_bits",
    "to_grey",
    "value_range",
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


EVENLY = FrameSelection()


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
        UnreadableFile: no pixels.
        ImageTooLarge: more than `MAX_FRAME_PIXELS`.
    """
    if width < 1 or height < 1:
        raise UnreadableFile(f"the header states a size of {width} x {height} pixels")
    if width * height > MAX_FRAME_PIXELS:
        raise ImageTooLarge(
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


def channel_spread(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """Largest minus smallest channel of (H, W, 3) uint8, as (H, W) uint8; None if all channels are equal."""
    red, green, blue = cv2.split(np.ascontiguousarray(rgb))
    spread = cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    return np.asarray(spread, np.uint8) if spread.any() else None


def value_range(arrays: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """Smallest and largest finite value over all arrays; (inf, -inf) where there is none."""
    low, high = np.inf, -np.inf
    for array in arrays:
        finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return low, high


def to_eight_bits(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map low..high linearly to 0..255, rounded; values outside are clipped, NaN and a flat range become 0."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255.0 / (high - low)
    np.rint(scaled, out=scaled)
    np.clip(scaled, 0, 255, out=scaled)
    return np.nan_to_num(scaled, copy=False, nan=0.0).astype(np.uint8)
