"""Thin bright strokes of an image as signs, with what tells drawn ones from speckle; lines and rulers of signs."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["JAGGED", "Signs", "find_signs", "lines_of", "rulers_of"]

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CONTRASTS = (40, 100)  # of a stroke against what lies under it; the higher one parts text from bright speckle
JAGGED = 1.2  # sharpness above this is the edge of an area, not a stroke
MOST_SIGNS = 200  # considered for lines, the plainest first: the search compares pairs
LETTER = (0.5, 28.0)  # least sharpness and fall of a letter in a line
LINE = (3, 0.57, 62.0)  # letters, mean sharpness and mean fall of a line of text
NEAT_LINE = (5, 0.52, 30.0)  # the same where letters stand on one base line and have one level
TICK = (0.65, 40.0)
RULER_TICKS = 5


@dataclass(frozen=True, eq=False)
class Signs:
    """Connected strokes of an image, numbered from 1 in `labels` (H, W); every other field is (n,).

    Attributes:
        contrast: mean height above the ground under the stroke, grey levels.
        sharpness: mean fall of the rim within one pixel, over contrast: 0.7 to 1 drawn, 0.3 to 0.5 speckle.
        level: mean grey level, brighter pixels counting more.
    """

    labels: npt.NDArray[np.int32]
    left: Numbers
    top: Numbers
    width: Numbers
    height: Numbers
    area: Numbers
    contrast: Numbers
    sharpness: Numbers
    level: Numbers

    @property
    def count(self) -> int:
        """How many signs, n."""
        return len(self.area)

    @property
    def fall(self) -> Numbers:
        """Sharpness times contrast, grey levels per pixel."""
        return self.sharpness * self.contrast

    @property
    def centre_x(self) -> Numbers:
        """Of the bounding boxes, px."""
        return self.left + self.width / 2

    @property
    def centre_y(self) -> Numbers:
        """Of the bounding boxes, px."""
        return self.top + self.height / 2

    def mean(self, image: Pixels) -> Numbers:
        """Mean of an image (H, W) over each sign."""
        at = np.flatnonzero(self.labels)
        sums = np.bincount(self.labels.flat[at], image.flat[at], self.count + 1)
        means: Numbers = sums[1:] / self.area
        return means


def find_signs(pixels: Pixels) -> list[Signs]:
    """The thin bright strokes of an image (H, W), at a low and at a high contrast."""
    reach = max(7, max(pixels.shape) // 64) | 1
    ground = cv2.morphologyEx(pixels, cv2.MORPH_OPEN, np.ones((reach, reach), np.uint8))
    above = cv2.subtract(pixels, ground)
    fall = cv2.subtract(pixels, cv2.erode(pixels, np.ones((3, 3), np.uint8)))
    return [_signs(pixels, above, fall, contrast) for contrast in CONTRASTS]


def _signs(pixels: Pixels, above: Pixels, fall: Pixels, contrast: int) -> Signs:
    strokes = (above > contrast).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    at = np.flatnonzero(strokes.view(bool))
    numbers, heights = labels.flat[at], above.flat[at].astype(np.float64)
    area = stats[1:, cv2.CC_STAT_AREA].astype(np.float64)
    total = np.bincount(numbers, heights, count)[1:]
    level = np.bincount(numbers, heights * pixels.flat[at], count)[1:] / total
    rim = at[cv2.erode(strokes, np.ones((3, 3), np.uint8)).flat[at] == 0]
    rims = np.bincount(labels.flat[rim], minlength=count)[1:]
    falls = np.bincount(labels.flat[rim], fall.flat[rim], count)[1:] / np.maximum(rims, 1)
    mean = total / area
    left, top, width, height = (stats[1:, k].astype(np.float64) for k in range(4))
    return Signs(labels, left, top, width, height, area, mean, falls / mean, level)


def lines_of(signs: Signs, small: Flags) -> Flags:
    """Signs that stand in a line of at least three alike: text."""
    keep = np.zeros(signs.count, bool)
    letter = small & (signs.sharpness > LETTER[0]) & (signs.fall > LETTER[1]) & (signs.height >= 4)
    letter &= signs.sharpness < JAGGED
    letter &= signs.width <= 5 * signs.height
    single = signs.width <= 2.5 * signs.height  # longer ones are letters that touch, or pieces of fascia
    chosen = _plainest(signs, letter)
    if len(chosen) < LINE[0]:
        return keep
    left, width, height = signs.left[chosen], signs.width[chosen], signs.height[chosen]
    top, level = signs.top[chosen], signs.level[chosen]
    bottom, right = top + height, left + width
    overlap = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
    low, high = np.minimum(height[:, None], height), np.maximum(height[:, None], height)
    gap = np.maximum(left[:, None], left) - np.minimum(right[:, None], right)
    alike = (overlap >= 0.6 * low) & (high <= 2 * low) & (gap <= 1.6 * high) & (gap > -0.3 * low)
    alike &= np.abs(level[:, None] - level) <= 40
    for members in _groups(alike):
        line = chosen[members]
        means = float(signs.sharpness[line].mean()), float(signs.fall[line].mean())
        found = (int(np.count_nonzero(single[line])), *means)
        plain = _reaches(found, LINE)
        neat = _reaches(found, NEAT_LINE) and _neat(signs, line)
        keep[line] = plain or neat
    return keep


def _reaches(found: Sequence[float], least: Sequence[float]) -> bool:
    return all(value >= bound for value, bound in zip(found, least, strict=True))


def _neat(signs: Signs, line: npt.NDArray[np.intp]) -> bool:
    """Whether letters have one height, one base line and one level, as printed ones do."""
    bottom, height = (signs.top + signs.height)[line], signs.height[line]
    level = signs.level[line]
    at_base = np.abs(bottom - np.median(bottom)) <= 1.5
    as_high = np.abs(height - np.median(height)) <= np.maximum(1.5, 0.15 * np.median(height))
    return bool((at_base & as_high).mean() >= 0.75 and np.median(height) >= 6 and level.std() <= 14)


def rulers_of(signs: Signs, side: int) -> Flags:
    """Small signs in one column or one row at even distances: the ticks of a ruler.

    Args:
        signs: of the image.
        side: longer side of the image, px.
    """
    keep = np.zeros(signs.count, bool)
    tick = (signs.sharpness > TICK[0]) & (signs.fall > TICK[1])
    tick &= (np.maximum(signs.width, signs.height) <= max(6, side / 25)) & (signs.sharpness < JAGGED)
    chosen = _plainest(signs, tick)
    if len(chosen) < RULER_TICKS:
        return keep
    x, y = signs.centre_x[chosen], signs.centre_y[chosen]
    ends = (signs.left[chosen], (signs.left + signs.width)[chosen], x)
    tops = (signs.top[chosen], (signs.top + signs.height)[chosen], y)
    thick, thin = signs.height[chosen], signs.width[chosen]
    for across, along, size in [(edge, y, thick) for edge in ends] + [(edge, x, thin) for edge in tops]:
        order = np.argsort(across, kind="stable")
        for members in np.split(order, 1 + np.flatnonzero(np.diff(across[order]) > 1.0)):
            if len(members) < RULER_TICKS or np.ptp(across[members]) > 2.5:
                continue
            if _two_sizes(size[members]) and _even(np.sort(along[members]), side):
                keep[chosen[members]] = True
    return keep


def _two_sizes(sizes: Numbers) -> bool:
    """Whether nearly all have one of two sizes, as the long and the short ticks of a ruler."""
    same = np.abs(sizes - np.median(sizes)) <= 1
    if not same.all():
        same |= np.abs(sizes - np.median(sizes[~same])) <= 1
    return bool(same.mean() >= 0.85)


def _even(places: Numbers, side: int) -> bool:
    """Whether sorted places lie at multiples of one distance and reach over a good part of the image."""
    gaps = np.diff(places)
    gaps = gaps[gaps > 2]
    if len(gaps) < RULER_TICKS - 1 or places[-1] - places[0] < side / 5:
        return False
    step = float(np.median(gaps))
    multiples = gaps / step
    off = np.abs(multiples - np.maximum(np.rint(multiples), 1)) * step
    return bool((off <= max(1.5, 0.1 * step)).mean() >= 0.8)


def _plainest(signs: Signs, flags: Flags) -> npt.NDArray[np.intp]:
    chosen = np.flatnonzero(flags)
    if len(chosen) > MOST_SIGNS:
        order = np.argsort(-signs.fall[chosen], kind="stable")
        chosen = np.sort(chosen[order[:MOST_SIGNS]])
    return chosen


def _groups(alike: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    """Connected groups of more than one of an (n, n) relation."""
    count, labels = connected_components(coo_array(alike), directed=False)
    sizes = np.bincount(labels, minlength=count)
    return [np.flatnonzero(labels == number) for number in np.flatnonzero(sizes > 1)]
