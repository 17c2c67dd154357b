"""All steps of the cleaning in order, for the frames of one file: crop, blank, frozen, Doppler, text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from usfm.data.cleaning.config import CleanConfig
from usfm.data.cleaning.flags import change, doppler_share, spread
from usfm.data.cleaning.region import content_box, whole
from usfm.data.cleaning.text import drawn, paint_over
from usfm.data.readers.frames import Box, Frame

__all__ = ["Cleaned", "clean", "cut"]


@dataclass(frozen=True, eq=False)
class Cleaned:
    """One frame after the cleaning.

    Attributes:
        pixels: (h, w) uint8, cropped, and painted over where the configuration wants it.
        box: what was kept of the file's frame.
        drawn: (h, w) where text, rulers or calipers were found, None = not looked for or nothing found.
        painted: whether they were painted over.
        flags: names of `usfm.data.schema.FLAGS`, in alphabetical order.
        refusal: why the frame is not taken, "" = it is.
    """

    pixels: npt.NDArray[np.uint8]
    box: Box
    drawn: npt.NDArray[np.bool_] | None = None
    painted: bool = False
    flags: tuple[str, ...] = ()
    refusal: str = ""


def clean(
    frames: Sequence[Frame], config: CleanConfig, mask: npt.NDArray[np.integer] | None = None
) -> list[Cleaned]:
    """Clean the frames of one file, one result per frame.

    Args:
        frames: in the file's order.
        config: which steps are on.
        mask: (H, W) labelled structure, of the frames' size: the crop never cuts into it.
    """
    same_size = all(frame.pixels.shape == frames[0].pixels.shape for frame in frames)
    if not same_size:
        return [found for frame in frames for found in clean([frame], config, mask)]
    box = content_box(frames, mask) if config.crop else whole(frames[0].pixels)
    cropped = [_cropped(frame, box) for frame in frames]
    refusals = _refusals(cropped, config)
    taken = [frame for frame, refusal in zip(cropped, refusals, strict=True) if not refusal]
    signs = drawn(taken) if taken and config.text != "off" else None
    if signs is not None and not signs.any():
        signs = None
    results: list[Cleaned] = []
    before: Frame | None = None
    for frame, refusal in zip(cropped, refusals, strict=True):
        if refusal:
            results.append(Cleaned(frame.pixels, box, refusal=refusal))
            continue
        flags = _flags(frame, before, config, signs is not None)
        before = frame
        painted = signs is not None and config.text == "mask"
        pixels = paint_over(frame.pixels, signs) if painted and signs is not None else frame.pixels
        results.append(Cleaned(pixels, box, signs, painted, flags))
    return results


def cut(pixels: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """The part of an image (H, W) inside a box, contiguous."""
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    return np.ascontiguousarray(part)


def _cropped(frame: Frame, box: Box) -> Frame:
    chroma = None if frame.chroma is None else cut(frame.chroma, box)
    return replace(frame, pixels=cut(frame.pixels, box), chroma=chroma, region=None)


def _refusals(frames: Sequence[Frame], config: CleanConfig) -> list[str]:
    """Why each frame is dropped, "" = it is not. A frozen frame is compared with the last one that stayed."""
    reasons = []
    last: Frame | None = None
    for frame in frames:
        reason = ""
        deviation = spread(frame.pixels)
        coloured = doppler_share(frame.chroma) if config.doppler == "drop" else 0.0
        if config.blank == "drop" and deviation < config.blank_std:
            reason = (
                f"blank frame: grey levels have a standard deviation of {deviation:.2f}, below {config.blank_std:g}"
            )
        elif config.frozen == "drop" and last is not None and _frozen(frame, last, config):
            reason = f"frozen: the same picture as frame {last.index} (clean.frozen)"
        elif coloured > config.doppler_share:
            reason = f"Doppler: {coloured:.1%} of the picture is coloured (clean.doppler)"
        else:
            last = frame
        reasons.append(reason)
    return reasons


def _flags(frame: Frame, before: Frame | None, config: CleanConfig, signs: bool) -> tuple[str, ...]:
    flags = {
        "burned_in_stated": frame.burned_in,
        "doppler": config.doppler == "flag" and doppler_share(frame.chroma) > config.doppler_share,
        "frozen": config.frozen == "flag" and before is not None and _frozen(frame, before, config),
        "text": signs,
    }
    return tuple(name for name, raised in flags.items() if raised)


def _frozen(frame: Frame, before: Frame, config: CleanConfig) -> bool:
    return change(frame.pixels, before.pixels) <= config.frozen_change
