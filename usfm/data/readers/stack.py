"""An opened file as a stack of pictures that are decoded on demand, and which of them are taken.

Every reader opens a file to a `Stack`; `take` picks frames from it, the same way for stills, clips, DICOM and
volumes. Pictures pass one at a time, so that memory holds the frames taken and one more, however long the file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.readers.frames import Box, Frame, FrameSelection, channel_spread, evenly_spaced, to_grey
from usfm.errors import UnreadableFile

__all__ = ["LEAST_CHANGE", "NOTHING_STATED", "PREVIEW_PX", "About", "Stack", "change_spaced", "frames_held", "take"]

Pixels = npt.NDArray[np.uint8]

PREVIEW_PX = 64
"""Longer side of the small pictures on which change is measured; area means, so that speckle averages out."""

LEAST_CHANGE = 0.5
"""Grey levels (of 255, mean over the preview) below which a difference is noise of the compression, not change."""


@dataclass(frozen=True)
class About:
    """What a file states of all its frames; see `Frame` for the meaning of each."""

    spacing_mm: float | None = None
    patient: str = ""
    device: str = ""
    region: Box | None = None
    burned_in: bool = False


NOTHING_STATED = About()


def _one(number: int) -> int:
    return 1


@dataclass(frozen=True)
class Stack:
    """An opened file.

    Attributes:
        width: of the first frame as the header states it, px.
        height: likewise.
        count: frames that the header or the packets promise, >= 1; a damaged clip may hold fewer.
        pictures: yields (number, (H, W) grey or (H, W, 3) RGB uint8) for ascending frame numbers. Ends early where
            a clip is damaged; whatever else goes wrong is raised.
        about: what the file states of all its frames.
        decoded_for: how many frames must be decoded to reach frame n.
    """

    width: int
    height: int
    count: int
    pictures: Callable[[Sequence[int]], Iterator[tuple[int, Pixels]]]
    about: About = NOTHING_STATED
    decoded_for: Callable[[int], int] = _one


def take(stack: Stack, selection: FrameSelection, frame: int | None = None) -> list[Frame]:
    """The frames that a selection, or one number, asks for.

    Args:
        stack: the opened file.
        selection: how many frames, and by which rule; see `FrameSelection`.
        frame: take exactly this one instead.

    Returns:
        Frames in ascending order; empty only if not one can be decoded.

    Raises:
        UnreadableFile: the file has no such frame; says how many it has.
    """
    if frame is not None:
        found = _decoded(stack, [frame]) if 0 <= frame < stack.count else []
        if not found:
            count = stack.count if not 0 <= frame < stack.count else _countable(stack)
            raise UnreadableFile(f"no frame {frame} here; the file has {frames_held(count)}")
        return found
    if selection.method == "change" and stack.count > 1:
        return _decoded(stack, change_spaced(_previews(stack), selection.max_frames))
    wanted = evenly_spaced(stack.count, selection.max_frames)
    found = _decoded(stack, wanted)
    if len(found) < len(wanted):  # damaged: spread anew over the frames that are really there
        found = _decoded(stack, evenly_spaced(_countable(stack), selection.max_frames))
    return found


def change_spaced(previews: Iterator[tuple[int, Pixels]], limit: int) -> list[int]:
    """At most `limit` frame numbers between which equal amounts of change pass.

    The change of a frame is its mean absolute grey difference to the last frame that differed by `LEAST_CHANGE`
    or more; it adds up along the clip, and a frame is taken wherever the sum passes the next of `limit` equally
    spaced levels. So the first frame is always taken, a frozen stretch gives at most one, and a slow drift counts.

    Args:
        previews: (number, (h, w) uint8), small grey pictures of one size in ascending order.
        limit: >= 1.
    """
    numbers: list[int] = []
    passed: list[float] = []
    anchor: npt.NDArray[np.int16] | None = None
    total = 0.0
    for number, preview in previews:
        picture = preview.astype(np.int16)
        if anchor is None:
            anchor = picture
        else:
            # another size is another picture altogether (pages of a TIFF, a clip that switches its size)
            same = picture.shape == anchor.shape
            change = float(np.abs(picture - anchor).mean()) if same else 255.0
            if change >= LEAST_CHANGE:
                total += change
                anchor = picture
        numbers.append(number)
        passed.append(total)
    levels = np.linspace(0.0, total, limit) if total > 0 else np.zeros(min(1, len(numbers)))
    return sorted({numbers[at] for at in np.searchsorted(passed, levels).tolist()})


def frames_held(count: int) -> str:
    """Words for a number of frames: "5 frames, numbers 0 to 4"."""
    return "1 frame, number 0" if count == 1 else f"{count} frames, numbers 0 to {count - 1}"


def _decoded(stack: Stack, wanted: Sequence[int]) -> list[Frame]:
    about = stack.about
    frames = []
    for number, picture in stack.pictures(wanted) if wanted else ():
        colour = picture.ndim == 3
        frames.append(
            Frame(
                pixels=to_grey(picture) if colour else np.ascontiguousarray(picture),
                index=number,
                spacing_mm=about.spacing_mm,
                patient=about.patient,
                device=about.device,
                chroma=channel_spread(picture) if colour else None,
                region=about.region,
                burned_in=about.burned_in,
            )
        )
    return frames


def _previews(stack: Stack) -> Iterator[tuple[int, Pixels]]:
    for number, picture in stack.pictures(range(stack.count)):
        grey = to_grey(picture) if picture.ndim == 3 else picture
        height, width = grey.shape
        scale = PREVIEW_PX / max(height, width)
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        yield number, grey


def _countable(stack: Stack) -> int:
    """How many frames can be decoded, found by decoding them."""
    return sum(1 for _ in stack.pictures(range(stack.count)))
