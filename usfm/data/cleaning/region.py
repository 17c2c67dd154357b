"""Where the ultrasound picture lies on a screen shot: one box for all frames of a file.

A scanner's screen is flat: black or a grey panel, with menus, logos, bars, rulers and text on it. The picture is
the largest textured thing there. The search is careful: what may be picture stays, a picture without
furniture stays whole, and without a clear answer the whole image is kept.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.readers.frames import Box, Frame

__all__ = ["content_box", "grown", "whole"]

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SEARCH_PX = 320  # longest side on which the search runs
LIT = 8  # above the darkness: picture or furniture
BRIGHT = 48  # above the darkness: beside the picture it is furniture
PANEL = 12  # a flat surface above this level is a panel of the screen, not darkness
PANEL_EDGE = 0.08  # of the longer side: a bar lies no farther from the image's edge; other panels touch it
BAR_SIDE = 0.15  # of the longer side: a panel this narrow is a bar
PANEL_AREA = 0.02  # of the image; a smaller flat surface is no panel
FRAMED = 0.6  # of a picture's outline that a panel must touch, so that what is dark inside belongs to it
STATED_AREA = 0.9  # of the image: a larger region says nothing, some machines state the whole screen
LEAST_AREA = 0.06  # of the image: a smaller find is not trusted
LEAST_PART = 0.015  # of the largest part's area: smaller parts are furniture
LEAST_SIDE = 0.04  # of the longer side: narrower parts are bars, rulers and lines of text
FILLED = 0.7  # of a part is lit; text is full of holes
FAINT_SHARE = 0.15  # of a row or column that differs from the darkness: the picture's dark end
MARGIN = 0.01  # of the longer side
LEAST_GAIN = 0.03  # of the image: a crop that removes less is not worth it


def content_box(frames: Sequence[Frame], mask: npt.NDArray[np.integer] | None = None) -> Box:
    """The box of the B-mode picture, the same for all frames.

    Args:
        frames: of one file, all of one size. A region that the file itself states (DICOM) decides, unless it is
            almost the whole image.
        mask: (H, W) labelled structure; the box grows until it holds all of it.

    Returns:
        A box inside the image; the whole image where there is nothing to cut off or no clear answer.
    """
    pixels = frames[0].pixels
    if any(frame.pixels.shape != pixels.shape for frame in frames):
        return whole(pixels)
    stated = _union([frame.region or whole(pixels) for frame in frames])
    if stated.height * stated.width < STATED_AREA * pixels.size:
        box = stated
    else:
        for frame in frames[1:]:
            pixels = cv2.max(pixels, frame.pixels)
        box = _search(pixels)
    return grown(box, mask) if mask is not None else box


def whole(pixels: npt.NDArray[np.generic]) -> Box:
    """The box of a whole image (H, W)."""
    return Box(0, 0, pixels.shape[0], pixels.shape[1])


def grown(box: Box, mask: npt.NDArray[np.integer]) -> Box:
    """The smallest box that holds `box` and every pixel of `mask` that is not 0."""
    return _union([box, _bounds(mask != 0)]) if mask.any() else box


def _union(boxes: Sequence[Box]) -> Box:
    top, left = min(box.top for box in boxes), min(box.left for box in boxes)
    bottom = max(box.top + box.height for box in boxes)
    right = max(box.left + box.width for box in boxes)
    return Box(top, left, bottom - top, right - left)


def _search(pixels: Pixels) -> Box:
    """The box of the largest textured part of an image (H, W)."""
    height, width = pixels.shape
    scale = min(1.0, SEARCH_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if min(size) < 16:
        return whole(pixels)
    panel = _panels(pixels, size)
    found, margin = _framed(panel), 1.0  # its edge lies within a pixel of the search
    if found is None:
        found, margin = _lit(pixels, panel, size), MARGIN * max(size)
    if found is None:
        return whole(pixels)
    top, left = max(0, int((found.top - margin) / scale)), max(0, int((found.left - margin) / scale))
    bottom = min(height, int(np.ceil((found.top + found.height + margin) / scale)))
    right = min(width, int(np.ceil((found.left + found.width + margin) / scale)))
    area = (bottom - top) * (right - left) / pixels.size
    return Box(top, left, bottom - top, right - left) if LEAST_AREA <= area <= 1 - LEAST_GAIN else whole(pixels)


def _panels(pixels: Pixels, size: tuple[int, int]) -> Mask:
    """Grey or white flat surfaces of the screen, (h, w) on the scale of the search; `size` is (w, h).

    Flat means constant along rows or along columns, as no speckle is: bars with a gradient count too. A panel
    is large and reaches the image's edge, perhaps by way of other panels.
    """
    reach = max(9, max(pixels.shape) // 40) | 1
    flat = np.zeros(pixels.shape, np.uint8)
    for shape in ((reach, 1), (1, reach)):
        kernel = np.ones(shape, np.uint8)
        spread = cv2.subtract(cv2.dilate(pixels, kernel), cv2.erode(pixels, kernel))
        flat |= cv2.dilate((spread <= 2).view(np.uint8), kernel)
    flat &= (pixels > PANEL).view(np.uint8)
    share: Pixels = cv2.resize(flat * 255, size, interpolation=cv2.INTER_AREA)
    surface = cv2.morphologyEx((share > 127).view(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(surface, connectivity=4)
    panel = np.zeros(share.shape, bool)
    edge = PANEL_EDGE * max(size)
    for label in range(1, count):
        left, top, width, height, area = stats[label].tolist()
        gap = min(left, top, size[0] - left - width, size[1] - top - height)
        narrow, long = min(width, height) < BAR_SIDE * max(size), max(width, height) > 0.4 * max(size)
        bar = narrow and long and area >= 0.3 * width * height
        if area < PANEL_AREA * share.size or gap > (edge if bar else 1):
            continue
        panel |= labels == label
        if bar:
            panel[top : top + height, left : left + width] = True  # with the text on it
    return panel


def _framed(panel: Mask) -> Box | None:
    """The box of the largest hole in the panels, if they touch most of its outline: its darkness is picture."""
    if not panel.any():
        return None
    hole = cv2.morphologyEx((~panel).view(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(hole, connectivity=4)
    if count < 2:
        return None
    left, top, width, height, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))].tolist()
    sides = [panel[max(0, top - 3) : top, left : left + width], panel[top + height :][:3, left : left + width]]
    columns = panel[top : top + height]
    sides += [columns[:, max(0, left - 3) : left], columns[:, left + width :][:, :3]]
    touched = sum(side.any(axis=k // 2).sum() for k, side in enumerate(sides) if side.size)
    box = Box(top, left, height, width)
    return box if touched >= FRAMED * 2 * (width + height) else None


def _lit(pixels: Pixels, panel: Mask, size: tuple[int, int]) -> Box | None:
    """Box of what is lit on a dark ground, without furniture; None = nothing clear."""
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    small[panel] = 0
    ground, step = _ground(small)
    smooth = cv2.blur(small, (3, 3))
    bright = smooth > ground + LIT
    side = max(size)
    reach = max(3, side // 64) | 1
    opened = cv2.morphologyEx(bright.view(np.uint8), cv2.MORPH_OPEN, np.ones((reach, reach), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
    if count < 2:
        return None
    filled: Pixels = cv2.resize((pixels > ground + LIT).view(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    area = stats[:, cv2.CC_STAT_AREA]
    share = np.bincount(labels.ravel(), filled.ravel(), count) / (255.0 * np.maximum(area, 1))
    narrow = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].min(axis=1) < LEAST_SIDE * side
    keep = (area >= LEAST_PART * area[1:].max()) & ~narrow & (share >= FILLED)
    keep[0], keep[1 + int(np.argmax(area[1:]))] = False, True
    part = keep[labels]
    near = cv2.dilate(part.view(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    part |= near & bright  # opening has cut off tips
    box = _bounds(part)
    away = cv2.dilate(((small > ground + BRIGHT) & ~part).view(np.uint8), np.ones((7, 7), np.uint8)) > 0
    differs: Pixels = cv2.resize(
        (cv2.absdiff(pixels, np.full_like(pixels, ground)) >= step).view(np.uint8) * 255,
        size,
        interpolation=cv2.INTER_AREA,
    )
    box = _with_faint(differs / 255, away | panel, box)
    return _without_empty_end(box, (small > ground + BRIGHT) | panel)


def _ground(small: Pixels) -> tuple[int, int]:
    """Level of the darkness around the picture, and the smallest difference from it that means something."""
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    dark = np.bincount(border[border <= PANEL], minlength=PANEL + 1)
    ground = int(dark.argmax())
    around = dark[max(0, ground - 1) : ground + 2].sum()
    return ground, 1 if dark[ground] >= 0.97 * around else 3


def _bounds(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def _with_faint(differs: npt.NDArray[np.float64], furniture: Mask, box: Box) -> Box:
    """Grow a box over rows and columns beside it that are not quite dark: the picture's dark end.

    Args:
        differs: (h, w) share of the pixels that are not as dark as the ground.
        furniture: what is not looked at.
        box: grows.
    """
    shown = np.where(furniture, np.nan, differs)
    top, left, bottom, right = box.top, box.left, box.top + box.height, box.left + box.width
    top -= _reach(shown[:top, left:right][::-1])
    bottom += _reach(shown[bottom:, left:right])
    left -= _reach(shown[top:bottom, :left].T[::-1])
    right += _reach(shown[top:bottom, right:].T)
    return Box(top, left, bottom - top, right - left)


def _without_empty_end(box: Box, furniture: Mask) -> Box | None:
    """None where the picture reaches three sides of the image and nothing lies on the fourth: its own darkness."""
    strips = [
        furniture[: box.top],
        furniture[box.top + box.height :],
        furniture[:, : box.left],
        furniture[:, box.left + box.width :],
    ]
    left_over = [strip for strip in strips if strip.size > 0.02 * furniture.size]
    return None if len(left_over) == 1 and left_over[0].mean() < 0.005 else box


def _reach(strip: npt.NDArray[np.float64]) -> int:
    """How many rows of a strip, from its first, are not dark on the whole."""
    if not strip.size:
        return 0
    seen = ~np.isnan(strip)
    counts = seen.sum(axis=1)
    rows = np.where(counts >= 0.2 * strip.shape[1], np.nansum(strip, axis=1) / np.maximum(counts, 1), 0.0)
    mean = np.cumsum(rows) / np.arange(1, len(rows) + 1)
    good = np.flatnonzero((mean >= FAINT_SHARE) & (rows >= FAINT_SHARE / 3))
    return int(good[-1]) + 1 if len(good) else 0
