import cv2
import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from screen_factory import picture

from usfm.data.cleaning.hashes import DuplicateConfig, alike, hamming, perceptual_hash, thumbnail
from usfm.errors import ConfigError

INT64 = st.integers(-(2**63), 2**63 - 1)
CONFIG = DuplicateConfig()


def same(first: np.ndarray, second: np.ndarray) -> bool:
    near = hamming(perceptual_hash(first), perceptual_hash(second)) <= CONFIG.max_distance
    return near and alike(thumbnail(first), thumbnail(second), CONFIG)


def test_the_hash_is_imagehash_s() -> None:
    for seed in range(5):
        pixels = picture("liver", seed)
        bits = "".join(str(int(bit)) for bit in imagehash.phash(Image.fromarray(pixels)).hash.ravel())
        assert perceptual_hash(pixels) % 2**64 == int(bits, 2)
        assert -(2**63) <= perceptual_hash(pixels) < 2**63


@given(INT64, INT64)
def test_hamming_counts_the_bits_that_differ(first: int, second: int) -> None:
    expected = sum((first >> bit & 1) != (second >> bit & 1) for bit in range(64))
    assert hamming(first, second) == hamming(second, first) == expected
    assert hamming(first, first) == 0


def test_the_thumbnail_is_the_mean_over_areas() -> None:
    pixels = picture("breast", 0)
    oracle = pixels.reshape(16, 16, 16, 16).mean(axis=(1, 3))
    small = np.frombuffer(thumbnail(pixels), np.uint8).reshape(16, 16)
    assert np.abs(small - oracle).max() <= 0.51
    assert len(thumbnail(pixels[:90, :33])) == 256


def test_copies_are_found_and_other_patients_are_not() -> None:
    pictures = [picture("heart", seed) for seed in range(6)]
    for pixels in pictures:
        jpeg = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_GRAYSCALE)
        brighter = np.clip(pixels * 1.1, 0, 255).astype(np.uint8)
        half = cv2.resize(pixels, (128, 128), interpolation=cv2.INTER_AREA)
        assert all(same(pixels, np.asarray(other, np.uint8)) for other in (jpeg, brighter, half))
    assert not any(same(pictures[i], pictures[k]) for i in range(6) for k in range(i))


def test_flat_thumbnails_are_alike_only_when_equal() -> None:
    assert alike(bytes([5] * 256), bytes([5] * 256), CONFIG)
    assert not alike(bytes([5] * 256), bytes([6] * 256), CONFIG)
    assert not alike(bytes([5] * 256), bytes(range(256)), CONFIG)
    assert alike(bytes([5] * 255 + [6]), bytes([7] * 255 + [9]), CONFIG)


def test_a_threshold_that_the_index_cannot_serve_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_distance"):
        DuplicateConfig.build({"max_distance": 8})
