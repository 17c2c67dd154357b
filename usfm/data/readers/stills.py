"""PNG, JPEG, BMP, TIFF, GIF, WebP and JPEG 2000 files to 8-bit pictures, with Pillow."""

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from usfm.data.readers.frames import check_size, to_eight_bits, value_range
from usfm.data.readers.stack import Stack
from usfm.errors import ImageTooLarge, UnreadableFile

__all__ = ["STILL_SUFFIXES", "open_still"]

STILL_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"}
ANIMATED = {"GIF", "TIFF", "WEBP", "PNG"}  # a JPEG's further pictures (MPO) are previews, not frames
RANDOM_ACCESS = {"TIFF"}  # of the others each frame is painted over the one before

Pixels = npt.NDArray[np.uint8]


def open_still(data: bytes) -> Stack:
    """Open a still image or an animation. EXIF orientation is applied, transparent pixels come out black.

    More than 8 bits (integers or floats) are stretched from the smallest to the largest value of the file's pages.

    Raises:
        UnreadableFile: damaged, or of no format that Pillow reads.
        ImageTooLarge: a page states more than `MAX_FRAME_PIXELS`.
    """
    with _opened(data) as image:
        count = _pages(image)
        ordered = count > 1 and image.format not in RANDOM_ACCESS
        return Stack(
            image.width,
            image.height,
            count,
            lambda numbers: _pictures(data, numbers),
            decoded_for=(lambda number: number + 1) if ordered else lambda number: 1,
        )


def _opened(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data))
    except UnidentifiedImageError:
        raise UnreadableFile("damaged still: the header cannot be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the header states too many pixels: {error}") from None
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow raises for cut files
        raise UnreadableFile(f"damaged still: {error}") from None
    check_size(image.width, image.height)
    return image


def _pages(image: Image.Image) -> int:
    try:
        return max(1, getattr(image, "n_frames", 1)) if image.format in ANIMATED else 1
    except (OSError, SyntaxError, EOFError) as error:
        raise UnreadableFile(f"damaged still: {error}") from None


def _pictures(data: bytes, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
    with _opened(data) as image:
        try:
            scale: tuple[float, float] | None = None
            for number in numbers:
                _seek(image, number)
                if _is_deep(image) and scale is None:  # one scale for all pages, or a stack would flicker
                    scale = value_range(np.asarray(image) for _ in _deep_pages(image))
                    _seek(image, number)
                yield number, _picture(image, scale)
        except (OSError, SyntaxError, EOFError) as error:
            raise UnreadableFile(f"damaged still: {error}") from None


def _seek(image: Image.Image, number: int) -> None:
    if number or image.tell():
        image.seek(number)
        check_size(image.width, image.height)  # every page has a size of its own


def _deep_pages(image: Image.Image) -> Iterator[int]:
    for number in range(_pages(image)):
        _seek(image, number)
        if _is_deep(image):
            yield number


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _picture(image: Image.Image, scale: tuple[float, float] | None) -> Pixels:
    """(H, W) grey or (H, W, 3) RGB uint8."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode == "L" and "transparency" not in turned.info:
        return np.array(turned)
    if scale is not None and _is_deep(turned):
        return to_eight_bits(np.asarray(turned), *scale)
    if turned.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in turned.info:
        rgba = np.asarray(turned.convert("RGBA"))
        return np.rint(rgba[..., :3] * (rgba[..., 3:] / 255.0)).astype(np.uint8)
    return np.array(turned.convert("RGB"))
