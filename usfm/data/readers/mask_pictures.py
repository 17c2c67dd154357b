"""Masks stored as pictures: thresholds, stored numbers, colours, and closed contours to fill."""

import re
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from usfm.data.readers.frames import check_size
from usfm.data.readers.mask_kinds import Mask, MaskFile, Names, checked, class_names, index_names, level
from usfm.errors import UnreadableFile

__all__ = ["binary", "colours", "index", "layer", "named_colours", "outline", "threshold"]

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "white": (1, 1, 1)}
STRAY_SHARE = 0.01
"""Pixels of an unnamed colour, as lossy tools leave them on edges, are background up to this share."""


def binary(file: MaskFile) -> tuple[Mask, Names]:
    """Above 127 = 1, named by the text: "binary png 0/255 head ellipse (filled)"."""
    name = re.sub(r"\(.*?\)|\b0/255\b", " ", file.kind[len("binary") :]).strip()
    name = re.sub(r"^(png|jpg|bmp|tif)\b[\s,:]*", "", name, flags=re.IGNORECASE)
    return _above(file.data, 127), {1: " ".join(name.split()) or "foreground"}


def threshold(file: MaskFile) -> tuple[Mask, Names]:
    """Above the stated threshold = 1, named behind the colon: "jpg, threshold >127: union of LV+LA"."""
    name = file.kind.partition(":")[2].strip().removeprefix("union of").strip()
    return _above(file.data, level(file.kind)), {1: name or "foreground"}


def layer(file: MaskFile) -> tuple[Mask, Names]:
    """One class of "layers, threshold >127: aponeurosis, fascicle": above the threshold = 1.

    With `turned` before the colon, a mask whose sides are those of the image swapped was stored a quarter turn
    counter-clockwise, and is turned back.
    """
    mask = _above(file.data, level(file.kind))
    swapped = file.size is not None and mask.shape == file.size[::-1] != file.size
    if swapped and "turned" in file.kind.partition(":")[0]:
        mask = np.ascontiguousarray(np.rot90(mask, -1))
    return mask, class_names(file.kind)


def outline(file: MaskFile) -> tuple[Mask, Names]:
    """A closed contour of 1 to 3 px ("outline png: head"), filled with itself = 1.

    It may be cut by the image's border, or open by a pixel or two.
    """
    contour = _above(file.data, 127)
    if not contour.any():
        raise UnreadableFile("the contour's image is empty: no pixel above 127")
    square = np.ones((3, 3), np.uint8)
    inside = _enclosed(contour)
    if inside.sum() <= contour.sum():  # open: a contour one pixel wider on each side bridges the gap
        inside = np.asarray(cv2.dilate(_enclosed(np.asarray(cv2.dilate(contour, square))), square), np.uint8)
    if inside.sum() <= contour.sum():
        raise UnreadableFile("the contour is open, it encloses nothing; expected a closed line 1 to 3 px wide")
    return inside | contour, class_names(file.kind)


def index(file: MaskFile) -> tuple[Mask, Names]:
    """The stored numbers: "index png: 0 bg, 1 nerve, 2 vessel (inferred)"."""
    names = index_names(file.kind)
    image = _picture(file.data)
    if image.mode not in ("P", "L", "1"):
        raise UnreadableFile(f"an index mask has one channel of numbers, this one is {image.mode}")
    return checked(np.array(image.convert("L") if image.mode == "1" else image), names)


def named_colours(file: MaskFile) -> tuple[Mask, Names]:
    """Full colours, channels cut at 127, in the order of the text: "RGB png: green benign, red malignant"."""
    found = re.findall(rf"\b({'|'.join(COLOURS)})\s+([^,;(]+)", file.kind, flags=re.IGNORECASE)
    if not found:
        raise UnreadableFile(f"mask_kind {file.kind!r} names no colours; known: {', '.join(COLOURS)}")
    rgb = np.where(_rgb(file.data) > 127, np.uint8(1), np.uint8(0))
    return _coloured(rgb, [(COLOURS[colour.lower()], name) for colour, name in found], file.kind)


def colours(file: MaskFile) -> tuple[Mask, Names]:
    """Exact colours in the order of the text: "colours png: #400000 cyst, #004000 teratoma"."""
    found = re.findall(r"#([0-9a-f]{6})\s+([^,;(]+)", file.kind, flags=re.IGNORECASE)
    if not found:
        raise UnreadableFile(f"mask_kind {file.kind!r} names no colours; expected e.g. 'colours png: #400000 cyst'")
    return _coloured(_rgb(file.data), [(tuple(bytes.fromhex(code)), name) for code, name in found], file.kind)


def _coloured(
    rgb: npt.NDArray[np.uint8], classes: list[tuple[tuple[int, ...], str]], kind: str
) -> tuple[Mask, Names]:
    mask = np.zeros(rgb.shape[:2], np.uint8)
    for number, (colour, _) in enumerate(classes, 1):
        mask[(rgb == colour).all(axis=2)] = number
    stray = int(np.count_nonzero(rgb.any(axis=2) & (mask == 0)))
    if stray > STRAY_SHARE * mask.size:
        raise UnreadableFile(f"{stray} pixels of the mask have a colour that mask_kind {kind!r} does not name")
    return mask, {number: name.strip() for number, (_, name) in enumerate(classes, 1)}


def _enclosed(contour: Mask) -> Mask:
    """Background that the contour cuts off from the image's four corners."""
    _, found = cv2.connectedComponents(1 - contour, connectivity=4)  # an 8-connected line holds against it
    areas = np.asarray(found, np.int32)
    corners = {int(areas[y, x]) for y in (0, -1) for x in (0, -1)}
    enclosed: Mask = ((areas > 0) & ~np.isin(areas, list(corners))).astype(np.uint8)
    return enclosed


def _above(data: bytes, limit: int) -> Mask:
    mask: Mask = np.greater(np.asarray(_picture(data).convert("L")), limit).astype(np.uint8)
    return mask


def _rgb(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(_picture(data).convert("RGB"), np.uint8)


def _picture(data: bytes) -> Image.Image:
    try:
        with Image.open(BytesIO(data)) as image:
            check_size(image.width, image.height)
            return image.copy()
    except UnidentifiedImageError:
        raise UnreadableFile("the mask is not an image that can be read") from None
