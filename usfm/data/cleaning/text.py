"""Burned-in text, rulers, arrows and calipers inside the kept region: found, and painted over.

What a scanner draws differs from tissue: it may be coloured; its strokes are thin and end within a pixel; signs
stand in lines and ticks at even distances; it lies on the dark beside the tissue; and it stands still while
tissue moves. One sign alone in tissue has to be very plain: a missed letter costs less than a lost bone surface.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.cleaning.signs import JAGGED, Signs, find_signs, lines_of, rulers_of
from usfm.data.readers.frames import Frame

__all__ = ["drawn", "paint_over", "wide_colour"]

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

COLOURED = 70  # largest minus smallest channel: drawn in colour (maps that tint the grey stay below 40)
PLAIN = (0.66, 100.0)  # sharpness and fall of a sign that needs no company
COARSE_PX = 256
MOST_PLAIN = 40  # more plain signs than that are a texture
STILL = 12.0  # grey levels by which a drawn sign may change over the frames of a clip
MOVING = 24.0  # grey levels by which its surroundings change
LEAST_FRAMES = 4
BESIDE = (0.5, 40.0)  # sharpness and fall of a sign beside the tissue
DARK = 6  # grey level up to which the surroundings of a sign count as background


def drawn(frames: Sequence[Frame]) -> Mask:
    """(H, W) where something is drawn over the picture; one mask for all frames of a file.

    Args:
        frames: already cropped, all of one size.
    """
    least = frames[0].pixels
    for frame in frames[1:]:
        least = cv2.min(least, frame.pixels)  # drawn things are bright in every frame
    found = np.zeros(least.shape, np.uint8)
    inside, outside = _places(least)
    for signs in find_signs(least):
        keep = _keep(signs, inside, outside, frames)
        if keep.any():
            found |= np.append(np.uint8(0), keep.view(np.uint8)).take(signs.labels)
    for frame in frames:
        if frame.chroma is not None:
            found |= _coloured_strokes(frame.chroma)
    if not found.any():
        return found.astype(bool)
    grown: Mask = cv2.dilate(found, np.ones((3, 3), np.uint8)) > 0
    return grown


def _keep(signs: Signs, inside: Mask, outside: Mask, frames: Sequence[Frame]) -> Mask:
    side = max(frames[0].pixels.shape)
    small = (signs.width < side / 8) & (signs.height < side / 12) & (signs.area >= 4)
    plain = small & _lie_in(signs, inside, side) & (signs.sharpness > PLAIN[0]) & (signs.fall > PLAIN[1])
    low, high = np.minimum(signs.width, signs.height), np.maximum(signs.width, signs.height)
    plain &= (low >= 5) & (high <= 3 * low) & (signs.sharpness < JAGGED)  # longer ones are pieces of fascia
    if np.count_nonzero(plain) > MOST_PLAIN:
        plain[:] = False
    keep: Mask = plain | lines_of(signs, small) | rulers_of(signs, side)
    keep |= small & _lie_in(signs, outside, side) & (signs.sharpness > BESIDE[0]) & (signs.fall > BESIDE[1])
    if len(frames) >= LEAST_FRAMES:
        keep |= small & _still(signs, [frame.pixels for frame in frames])
    return keep


def paint_over(pixels: Pixels, mask: Mask) -> Pixels:
    """A copy without what is drawn: 0 on a dark ground, continued tissue elsewhere (inpainting after Telea 2004).

    Args:
        pixels: (H, W).
        mask: (H, W), True = painted over.
    """
    if not mask.any():
        return pixels
    hidden = mask.astype(np.uint8)
    window = (15, 15)
    known = cv2.boxFilter(1 - hidden, cv2.CV_32F, window, normalize=False)
    around = cv2.boxFilter(pixels * (1 - hidden), cv2.CV_32F, window, normalize=False) / np.maximum(known, 1)
    dark = mask & (around <= DARK)
    out = pixels.copy()
    out[dark] = 0
    tissue = mask & ~dark
    if tissue.any():
        out = np.asarray(cv2.inpaint(out, tissue.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)
    return out


def _places(pixels: Pixels) -> tuple[Mask, Mask]:
    """On a coarse grid: inside what is lit by area, but not at its rim; and outside its hull."""
    height, width = pixels.shape
    scale = min(1.0, COARSE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.blur(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), (3, 3))
    lit = cv2.morphologyEx((small > 8).view(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return lit > 0, lit > 0
    hull = cv2.fillConvexPoly(np.zeros_like(lit), cv2.convexHull(np.concatenate(contours)), 1)
    filled = cv2.drawContours(np.zeros_like(lit), contours, -1, 1, cv2.FILLED)
    kernel = np.ones((9, 9), np.uint8)
    return cv2.erode(filled, kernel) > 0, cv2.dilate(hull, kernel) == 0


def _lie_in(signs: Signs, place: Mask, side: int) -> Mask:
    """Whether the signs' centres lie in a place of the coarse grid; `side` is the image's longer one."""
    scale = min(1.0, COARSE_PX / side)
    rows = np.minimum((signs.centre_y * scale).astype(int), place.shape[0] - 1)
    columns = np.minimum((signs.centre_x * scale).astype(int), place.shape[1] - 1)
    lie: Mask = place[rows, columns]
    return lie


def _still(signs: Signs, pixels: Sequence[Pixels]) -> Mask:
    """Signs that stand still while what is around them moves."""
    least, most = pixels[0], pixels[0]
    for frame in pixels[1:]:
        least, most = cv2.min(least, frame), cv2.max(most, frame)
    change = cv2.subtract(most, least)
    around = cv2.blur(change, (21, 21))
    still: Mask = (signs.mean(change) < STILL) & (signs.mean(around) > MOVING) & (signs.sharpness > BESIDE[0])
    return still


def _coloured_strokes(chroma: Pixels) -> Pixels:
    """(H, W) 1 where thin strokes are drawn in colour; flecks beside wide colour are flow."""
    wide = wide_colour(chroma)
    reach = max(chroma.shape) // 20 | 1
    flow = cv2.dilate(wide.view(np.uint8), np.ones((reach, reach), np.uint8)) if wide.any() else wide
    strokes: Pixels = ((chroma > COLOURED) & (flow == 0)).view(np.uint8)
    return strokes


def wide_colour(chroma: Pixels) -> Mask:
    """(H, W) what is coloured by area, and not just along strokes: Doppler."""
    colour = (chroma > COLOURED).view(np.uint8)
    if not colour.any():
        return colour > 0
    reach = max(5, max(chroma.shape) // 100) | 1
    core = cv2.erode(colour, np.ones((reach, reach), np.uint8))
    count, labels = cv2.connectedComponents(colour, connectivity=8)
    flow = np.zeros(count, bool)
    flow[labels[core > 0]] = True
    flow[0] = False
    wide: Mask = flow[labels]
    return wide
