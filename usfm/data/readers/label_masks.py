"""Label masks of many sources to one form: class numbers in uint8, 0 = background, with names.

The text of `mask_kind` says how to read a mask; `KINDS` is the table of the forms that are known:

| text begins with | example | classes |
|---|---|---|
| binary | "binary png 0/255 head ellipse (filled)" | above 127 = 1, named by the text |
| jpg | "jpg, threshold >127: union of LV+LA" | above the threshold = 1, named behind the colon |
| index | "index png: 0 bg, 1 nerve, 2 vessel (inferred)" | the stored numbers, each named |
| RGB | "RGB png: green benign, red malignant" | colours, numbered in the order of the text |
"""

import re
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from usfm.data.readers.frames import check_size
from usfm.errors import UnreadableFile

__all__ = ["KINDS", "fit_mask", "read_mask"]

Mask = npt.NDArray[np.uint8]
Names = dict[int, str]
COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "white": (1, 1, 1)}


def read_mask(data: bytes, kind: str) -> tuple[Mask, Names]:
    """Decode a mask file.

    Args:
        data: the whole file (PNG, JPEG, BMP, TIFF).
        kind: the manifest's `mask_kind`.

    Returns:
        (H, W) uint8 class numbers, and the name of each class but 0.

    Raises:
        UnreadableFile: an unknown kind, a damaged file, or values that the kind does not name.
    """
    reader = next((read for prefix, read in KINDS.items() if kind.lower().startswith(prefix)), None)
    if reader is None:
        raise UnreadableFile(f"unknown mask_kind {kind!r}; known ones begin with {', '.join(KINDS)}")
    if not data:
        raise UnreadableFile("the mask file is empty (0 bytes)")
    try:
        with Image.open(BytesIO(data)) as image:
            check_size(image.width, image.height)
            image.load()
            return reader(image, kind)
    except UnidentifiedImageError:
        raise UnreadableFile("the mask is not an image that can be read") from None
    except (OSError, SyntaxError, EOFError) as error:
        raise UnreadableFile(f"damaged mask: {error}") from None


def fit_mask(mask: Mask, source_size: tuple[int, int], stored_size: tuple[int, int]) -> Mask:
    """Bring a mask to the size of the stored image, without mixing classes.

    Args:
        mask: (H, W) class numbers.
        source_size: height and width of the image in its file.
        stored_size: height and width of the image as stored.

    Raises:
        UnreadableFile: the mask has other proportions than the image, so it cannot lie on it.
    """
    height, width = source_size
    mask_height, mask_width = mask.shape
    # one pixel of rounding is allowed, on the longer side's scale
    if abs(mask_height * width - mask_width * height) > max(height, width, mask_height, mask_width):
        raise UnreadableFile(
            f"the mask has {mask_width} x {mask_height} pixels, its image {width} x {height}: other proportions"
        )
    if mask.shape == stored_size:
        return mask
    size = (stored_size[1], stored_size[0])
    # EXACT samples at pixel centres, as the image's area resize does; plain NEAREST is half a pixel off
    fitted: Mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return fitted


def _binary(image: Image.Image, kind: str) -> tuple[Mask, Names]:
    name = re.sub(r"\(.*?\)|\b0/255\b", " ", kind[len("binary") :]).strip()
    name = re.sub(r"^(png|jpg|bmp|tif)\b[\s,:]*", "", name, flags=re.IGNORECASE)
    return _above(image, 127), {1: " ".join(name.split()) or "foreground"}


def _threshold(image: Image.Image, kind: str) -> tuple[Mask, Names]:
    level = re.search(r"threshold\s*>\s*(\d+)", kind)
    if level is None:
        raise UnreadableFile(f"mask_kind {kind!r} states no threshold; expected e.g. 'jpg, threshold >127: name'")
    name = kind.partition(":")[2].strip().removeprefix("union of").strip()
    return _above(image, int(level.group(1))), {1: name or "foreground"}


def _index(image: Image.Image, kind: str) -> tuple[Mask, Names]:
    names = {int(number): name.strip() for number, name in re.findall(r"(\d+)\s+([^,(\d][^,(]*)", kind)}
    if len(names) < 2 or max(names) > 255:
        raise UnreadableFile(f"mask_kind {kind!r} names no classes; expected e.g. 'index png: 0 bg, 1 nerve'")
    if image.mode not in ("P", "L", "1"):
        raise UnreadableFile(f"an index mask has one channel of numbers, this one is {image.mode}")
    mask = np.array(image.convert("L") if image.mode == "1" else image, np.uint8)
    unknown = sorted(set(np.unique(mask).tolist()) - set(names) - {0})
    if unknown:
        raise UnreadableFile(f"the index mask holds the values {unknown}; its mask_kind names {sorted(names)}")
    return mask, {number: name for number, name in sorted(names.items()) if number}


def _rgb(image: Image.Image, kind: str) -> tuple[Mask, Names]:
    pattern = rf"\b({'|'.join(COLOURS)})\s+([^,;(]+)"
    found = re.findall(pattern, kind, flags=re.IGNORECASE)
    if not found:
        raise UnreadableFile(f"mask_kind {kind!r} names no colours; known: {', '.join(COLOURS)}")
    bits = np.asarray(image.convert("RGB")) > 127
    code = bits @ np.array([1, 2, 4], np.uint8)
    mask = np.zeros(code.shape, np.uint8)
    for number, (colour, _) in enumerate(found, 1):
        red, green, blue = COLOURS[colour.lower()]
        mask[code == red + 2 * green + 4 * blue] = number
    stray = int(np.count_nonzero((code > 0) & (mask == 0)))
    if stray > 0.01 * mask.size:
        raise UnreadableFile(f"{stray} pixels of the mask have a colour that mask_kind {kind!r} does not name")
    return mask, {number: name.strip() for number, (_, name) in enumerate(found, 1)}


KINDS: dict[str, Callable[[Image.Image, str], tuple[Mask, Names]]] = {
    "binary": _binary,
    "jpg": _threshold,
    "index": _index,
    "rgb": _rgb,
}


def _above(image: Image.Image, level: int) -> Mask:
    return (np.asarray(image.convert("L")) > level).astype(np.uint8)
