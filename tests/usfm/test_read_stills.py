import csv
import struct
import zlib
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from media_factory import COLOUR, RAMP, luma, still
from PIL import Image

from usfm.data.readers.decode import open_bytes, read_bytes, read_frames
from usfm.data.readers.frames import FrameSelection, to_grey
from usfm.errors import ImageTooLarge, UnreadableFile

THREE = FrameSelection(max_frames=3)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000"])
def test_lossless_grey_stills_come_back_exactly(form: str) -> None:
    (frame,) = read_bytes(still(RAMP, form, **({"lossless": True} if form == "WEBP" else {})))
    assert frame.pixels.dtype == np.uint8
    assert np.array_equal(frame.pixels, RAMP)
    assert (frame.index, frame.spacing_mm, frame.patient, frame.device) == (0, None, "", "")
    assert frame.chroma is None  # WebP and GIF store colours: equal channels are grey
    assert (frame.region, frame.burned_in) == (None, False)


def test_colour_becomes_luma_and_its_spread_is_kept() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for data in (still(rgb, "PNG"), still(rgb, "BMP"), still(rgb, "TIFF")):
        (frame,) = read_bytes(data)
        assert np.abs(frame.pixels - luma(rgb)).max() <= 0.51
        assert frame.chroma is not None
        assert np.array_equal(frame.chroma, rgb.max(axis=2) - rgb.min(axis=2))
    assert np.array_equal(to_grey(np.repeat(RAMP[..., None], 3, axis=2)), RAMP)
    assert read_bytes(still(np.repeat(RAMP[..., None], 3, axis=2), "PNG"))[0].chroma is None


def test_palette_transparency_depth_and_orientation() -> None:
    indexed = Image.fromarray(RAMP % 3).convert("P")
    indexed.putdata((RAMP % 3).ravel().tolist())
    indexed.putpalette([0, 0, 0, 255, 255, 255, 100, 100, 100])
    stream = BytesIO()
    indexed.save(stream, "PNG")
    assert np.array_equal(read_bytes(stream.getvalue())[0].pixels, np.array([0, 255, 100], np.uint8)[RAMP % 3])

    rgba = np.dstack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 255, np.uint8)])
    rgba[0, :, 3], rgba[1, :, 3] = 0, 102
    assert read_bytes(still(rgba, "PNG"))[0].pixels[:, 0].tolist() == [0, 80, 200, 200]

    deep = np.array([[1000, 2000], [3000, 5000]], np.uint16)
    assert read_bytes(still(deep, "PNG"))[0].pixels.tolist() == [[0, 64], [128, 255]]
    real = np.array([[0.0, np.nan], [0.5, 1.0]], np.float32)
    assert read_bytes(still(real, "TIFF"))[0].pixels.tolist() == [[0, 0], [128, 255]]

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = read_bytes(still(RAMP, "PNG", exif=exif))[0].pixels
    assert np.array_equal(turned, np.rot90(RAMP, -1))


def pages(arrays: list[np.ndarray], form: str) -> bytes:
    stream = BytesIO()
    first, *others = (Image.fromarray(array) for array in arrays)
    first.save(stream, form, save_all=True, append_images=others, **({"lossless": True} if form == "WEBP" else {}))
    return stream.getvalue()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_frames_of_an_animation(form: str) -> None:
    data = pages([np.full((8, 8), 20 * number, np.uint8) for number in range(9)], form)
    frames = read_bytes(data, selection=THREE)
    assert [(frame.index, int(frame.pixels[0, 0])) for frame in frames] == [(0, 0), (4, 80), (8, 160)]
    (sixth,) = read_bytes(data, frame=6)
    assert (sixth.index, int(sixth.pixels[0, 0])) == (6, 120)
    with pytest.raises(UnreadableFile, match="no frame 9 here; the file has 9 frames, numbers 0 to 8"):
        read_bytes(data, frame=9)


def test_deep_pages_share_one_scale() -> None:
    data = pages([np.full((4, 4), level, np.uint16) for level in (1000, 2000, 6000)], "TIFF")
    assert [int(frame.pixels[0, 0]) for frame in read_bytes(data)] == [0, 51, 255]
    assert int(read_bytes(data, frame=1)[0].pixels[0, 0]) == 51  # whatever else is read


HUGE = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
BOMB = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + HUGE + struct.pack(">I", zlib.crc32(b"IHDR" + HUGE))
)
BOMB += struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")) + struct.pack(
    ">I4sI", 0, b"IEND", zlib.crc32(b"IEND")
)


def gif_stating(width: int, height: int) -> bytes:
    data = bytearray(still(RAMP, "GIF"))
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


def tiff_with_a_huge_second_page() -> bytes:
    small, data = still(RAMP, "TIFF"), bytearray(pages([RAMP, RAMP], "TIFF"))
    at = data.rindex(struct.pack("<HHI", 256, 4, 1) + struct.pack("<I", RAMP.shape[1]))  # ImageWidth
    struct.pack_into("<I", data, at + 8, 2_000_000)
    assert len(small) < at
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (BOMB, "the header states 9000 x 9000 pixels; at most 64 megapixels"),
        (gif_stating(60_000, 60_000), "the header states too many pixels"),
        (gif_stating(10_000, 10_000), "the header states 10000 x 10000 pixels; at most 64 megapixels"),
        (tiff_with_a_huge_second_page(), "the header states 2000000 x 40 pixels; at most 64 megapixels"),
    ],
)
def test_bombs_are_refused_from_their_header(data: bytes, reason: str) -> None:
    with pytest.raises(ImageTooLarge, match=reason):
        read_bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n", "damaged still: the header cannot be read"),
        (still(RAMP, "PNG")[:60], "damaged still: "),
        (still(np.kron(RAMP, np.ones((4, 4), np.uint8)), "JPEG")[:-800], "damaged still: image file is truncated"),
        (still(RAMP, "BMP")[:-500], "damaged still: image file is truncated"),
        (still(COLOUR, "TIFF")[:-500], "damaged still: "),
        (pages([RAMP, RAMP // 2, RAMP // 3], "GIF")[:-900], "damaged"),
    ],
)
def test_cut_stills_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read_bytes(data, "scan.png")


def test_opening_decodes_nothing() -> None:
    stack = open_bytes(still(RAMP, "PNG")[:60])  # the pixels are missing
    assert (stack.width, stack.height, stack.count) == (60, 40, 1)


def test_one_still_of_each_source_and_suffix_against_opencv(corpus: Path) -> None:
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["media"] == "image"]
    chosen = {(row["source"], Path(row["path"]).suffix): row["path"] for row in rows}
    assert {suffix for _, suffix in chosen} >= {".png", ".jpg", ".JPG", ".bmp"}
    for path in chosen.values():
        (frame,) = read_frames(corpus / path)
        colour = cv2.imread(str(corpus / path), cv2.IMREAD_COLOR)
        oracle = colour.astype(np.float64) @ [0.114, 0.587, 0.299]
        assert frame.pixels.shape == oracle.shape
        assert np.abs(frame.pixels - oracle).max() <= 3.1, path  # two JPEG decoders differ by a few levels
        spread = np.ptp(colour.astype(int), axis=2)
        found = np.zeros_like(spread) if frame.chroma is None else frame.chroma.astype(int)
        assert np.abs(found - spread).mean() <= 1.0, path
