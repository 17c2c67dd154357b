"""How alike two images are: a perceptual hash to find candidates, a thumbnail to make sure.

The hash keeps the signs of 64 low frequencies, so views of one kind share much of it: two patients' four-chamber
views have been seen with 2 differing bits. Their thumbnails correlate less than those of neighbouring frames.
"""

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from usfm.config import Config
from usfm.data.schema import THUMBNAIL_PX

__all__ = ["DuplicateConfig", "alike", "hamming", "perceptual_hash", "thumbnail"]

HASH_BYTES = 8


class DuplicateConfig(Config):
    """When two rows are the same.

    Attributes:
        exact: rows of equal source bytes and frame count as duplicates.
        near: rows that look alike do, too; the two numbers below say when. With the defaults 92 % of neighbouring
            frames of clips are alike, and not one of 120,000 pairs of different patients of HC18 and CAMUS.
        max_distance: largest number of differing bits of the perceptual hashes. Neighbouring frames have 0 to 6.
        min_correlation: smallest correlation of the thumbnails.
    """

    exact: bool = True
    near: bool = True
    max_distance: int = Field(default=6, ge=0, le=7)
    min_correlation: float = Field(default=0.98, ge=-1.0, le=1.0)


def perceptual_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit pHash of an image (H, W), as a signed integer, so that it fits an int64 column."""
    bits = imagehash.phash(Image.fromarray(pixels)).hash
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big", signed=True)


def thumbnail(pixels: npt.NDArray[np.uint8]) -> bytes:
    """(16, 16) uint8, row by row: the mean over equal areas of an image (H, W)."""
    small = cv2.resize(pixels, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return bytes(small.tobytes())


def hamming(first: int, second: int) -> int:
    """Bits in which two hashes differ, 0..64."""
    mask = (1 << 8 * HASH_BYTES) - 1
    return ((first ^ second) & mask).bit_count()


def alike(first: bytes, second: bytes, config: DuplicateConfig) -> bool:
    """Whether the thumbnails of two images, whose hashes are near enough already, correlate.

    Flat thumbnails (one grey level) are alike only when they are equal.
    """
    if first == second:
        return True
    one = np.frombuffer(first, np.uint8).astype(np.float64)
    other = np.frombuffer(second, np.uint8).astype(np.float64)
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return scale > 0 and float(one @ other) >= config.min_correlation * scale
