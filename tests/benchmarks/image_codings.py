"""Ways to store one grey image, and to bring a batch of them back onto canvases."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from usfm.data.codec import encode_grey

__all__ = ["ENCODINGS", "Encoding"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Encoding:
    """`encode` takes (H, W) uint8; `decode` puts a batch onto zeroed canvases (B, S, S)."""

    encode: Callable[[Pixels], bytes]
    decode: Callable[[Sequence[bytes], Pixels], None]
    lossless: bool = True


def _decode_images(encoded: Sequence[bytes], canvases: Pixels) -> None:
    for canvas, data in zip(canvases, encoded, strict=True):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels


def _by_cv2(suffix: str, *parameters: int) -> Encoding:
    return Encoding(lambda pixels: cv2.imencode(suffix, pixels, list(parameters))[1].tobytes(), _decode_images)


def _by_pillow(pixels: Pixels) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


def _with_size(pixels: Pixels, body: bytes) -> bytes:
    return np.array(pixels.shape, "<u2").tobytes() + body


def _bodies(encoded: Sequence[bytes]) -> list[tuple[int, int, memoryview]]:
    sizes = [np.frombuffer(data, "<u2", 2).tolist() for data in encoded]
    return [(height, width, memoryview(data)[4:]) for (height, width), data in zip(sizes, encoded, strict=True)]


def _plain() -> Encoding:
    def decode(encoded: Sequence[bytes], canvases: Pixels) -> None:
        for canvas, (height, width, body) in zip(canvases, _bodies(encoded), strict=True):
            canvas[:height, :width] = np.frombuffer(body, np.uint8).reshape(height, width)

    return Encoding(lambda pixels: _with_size(pixels, pixels.tobytes()), decode)


def _zstd(level: int) -> Encoding:
    codec = pa.Codec("zstd", compression_level=level)

    def decode(encoded: Sequence[bytes], canvases: Pixels) -> None:
        for canvas, (height, width, body) in zip(canvases, _bodies(encoded), strict=True):
            values = np.frombuffer(codec.decompress(pa.py_buffer(body), height * width), np.uint8)
            canvas[:height, :width] = values.reshape(height, width)

    return Encoding(lambda p: _with_size(p, codec.compress(p.tobytes(), asbytes=True)), decode)


def _differences(level: int, turned: bool) -> Encoding:
    """Differences from the row above (turned: from the pixel to the left), then zstd.

    The sum over rows is taken for the whole batch at once: 255 additions for a batch instead of for each image.
    """
    codec = pa.Codec("zstd", compression_level=level)

    def encode(pixels: Pixels) -> bytes:
        rows = np.ascontiguousarray(pixels.T) if turned else pixels
        difference = rows.copy()
        difference[1:] -= rows[:-1]
        return _with_size(rows, codec.compress(difference.tobytes(), asbytes=True))

    def decode(encoded: Sequence[bytes], canvases: Pixels) -> None:
        sums = np.zeros_like(canvases) if turned else canvases
        bodies = _bodies(encoded)
        for canvas, (height, width, body) in zip(sums, bodies, strict=True):
            values = np.frombuffer(codec.decompress(pa.py_buffer(body), height * width), np.uint8)
            canvas[:height, :width] = values.reshape(height, width)
        for row in range(1, max(height for height, _, _ in bodies)):
            np.add(sums[:, row], sums[:, row - 1], out=sums[:, row])
        for canvas, total, (height, width, _) in zip(canvases, sums, bodies, strict=True):
            if turned:
                canvas[:width, :height] = cv2.transpose(total[:height, :width])
            else:
                canvas[height:] = 0

    return Encoding(encode, decode)


ENCODINGS: dict[str, Encoding] = {
    "PNG as ingest writes it": Encoding(lambda pixels: encode_grey(pixels, "png"), _decode_images),
    "PNG, Pillow, level 3": Encoding(_by_pillow, _decode_images),
    "PNG, no filter, level 6": _by_cv2(
        *(".png", cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 6)
    ),
    "JPEG q95": Encoding(lambda pixels: encode_grey(pixels, "jpeg", 95), _decode_images, lossless=False),
    "WebP lossless": _by_cv2(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "raw": _plain(),
    "raw + zstd 1": _zstd(1),
    "vertical differences + zstd 1": _differences(1, turned=False),
    "horizontal differences + zstd 1": _differences(1, turned=True),
}
