import csv
import re
import struct
import zlib
from io import BytesIO
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.uid import ExplicitVRLittleEndian

from usfm.data.readers.decode import file_bytes, read_bytes, read_frames, sniff
from usfm.data.readers.frames import MAX_FRAME_PIXELS, evenly_spaced, to_eight_bits, to_grey
from usfm.errors import UnreadableFile

RAMP = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)
Pixels = npt.NDArray[np.uint8]


def still(pixels: npt.NDArray[np.generic], form: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def clip(count: int, codec: str = "mpeg4", form: str = "avi") -> bytes:
    """A clip whose frame i is evenly grey, with level 10 + 4 i."""
    stream = BytesIO()
    with av.open(stream, "w", format=form) as container:
        track = container.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt, track.bit_rate = 64, 48, "yuv420p", 8_000_000
        for number in range(count):
            level = np.full((48, 64, 3), 10 + 4 * number, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


def dicom(
    pixels: npt.NDArray[np.generic], photometric: str = "MONOCHROME2", stored: int = 8, **tags: object
) -> bytes:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "2.25.7"
    data.Modality, data.PhotometricInterpretation = "US", photometric
    data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[-3:-1] if data.SamplesPerPixel == 3 else pixels.shape[-2:]
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = stored, stored - 1, 0
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    stream = BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()


def region(units: int, delta_cm: float, ratio: float = 1.0) -> Dataset:
    data = Dataset()
    data.PhysicalUnitsXDirection = data.PhysicalUnitsYDirection = units
    data.PhysicalDeltaX, data.PhysicalDeltaY = delta_cm, delta_cm * ratio
    return data


def luma(rgb: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.asarray(rgb, np.float64) @ [0.299, 0.587, 0.114]


# --- stills


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_grey_stills_come_back_exactly(form: str) -> None:
    (frame,) = read_bytes(still(RAMP, form, **({"lossless": True} if form == "WEBP" else {})))
    assert frame.pixels.dtype == np.uint8
    assert np.array_equal(frame.pixels, RAMP)
    assert (frame.index, frame.spacing_mm, frame.patient) == (0, None, "")


def test_colour_becomes_luma() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for data in (still(rgb, "PNG"), still(rgb, "BMP")):
        (frame,) = read_bytes(data)
        assert np.abs(frame.pixels - luma(rgb)).max() <= 0.51
    assert np.array_equal(to_grey(np.repeat(RAMP[..., None], 3, axis=2)), RAMP)


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

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = read_bytes(still(RAMP, "PNG", exif=exif))[0].pixels
    assert np.array_equal(turned, np.rot90(RAMP, -1))


def test_animated_gif_gives_evenly_spaced_frames() -> None:
    pictures = [Image.fromarray(np.full((8, 8), 20 * number, np.uint8)) for number in range(9)]
    stream = BytesIO()
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:])
    frames = read_bytes(stream.getvalue(), max_frames=3)
    assert [(frame.index, int(frame.pixels[0, 0])) for frame in frames] == [(0, 0), (4, 80), (8, 160)]


# --- clips


@pytest.mark.parametrize(
    ("codec", "form"), [("mpeg4", "avi"), ("mpeg4", "mov"), ("mpeg4", "mp4"), ("mpeg1video", "mpeg")]
)
def test_clip_frames_are_those_of_their_number(codec: str, form: str) -> None:
    frames = read_bytes(clip(40, codec, form), max_frames=5)
    assert [frame.index for frame in frames] == [0, 10, 20, 29, 39]
    for frame in frames:
        assert frame.pixels.shape == (48, 64)
        assert float(frame.pixels.mean()) == pytest.approx(10 + 4 * frame.index, abs=1.9)


@pytest.mark.parametrize("stated", [0, 7, 5000])
def test_wrong_frame_count_in_the_header_does_no_harm(stated: int) -> None:
    data = bytearray(clip(20))
    for marker, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(marker) + offset
        assert struct.unpack_from("<I", data, at) == (20,)
        struct.pack_into("<I", data, at, stated)
    assert [frame.index for frame in read_bytes(bytes(data), max_frames=4)] == [0, 6, 13, 19]


def test_cut_clip_gives_the_frames_before_the_cut_evenly() -> None:
    whole = clip(60)
    frames = read_bytes(whole[: len(whole) // 2], max_frames=4)
    assert 2 <= len(frames) <= 4
    assert frames[0].index == 0
    assert frames[-1].index < 59
    for frame in frames:
        assert float(frame.pixels.mean()) == pytest.approx(10 + 4 * frame.index, abs=1.9)


def test_clip_with_damaged_second_half_is_sampled_from_the_first() -> None:
    data = bytearray(clip(40))
    packets = [found.start() for found in re.finditer(b"00dc", bytes(data))][20:40]
    for at in packets:  # the packets are there and counted, but cannot be decoded
        size = struct.unpack_from("<I", data, at + 4)[0]
        data[at + 8 : at + 8 + size] = bytes(size)
    frames = read_bytes(bytes(data), max_frames=4)
    assert len(frames) == 4
    assert 15 <= frames[-1].index < 20
    assert {int(gap) for gap in np.diff([frame.index for frame in frames])} <= {5, 6, 7}


def test_clip_format_without_signature_is_known_by_its_name() -> None:
    data = clip(10, "mpeg2video", "mpegts")
    assert len(read_bytes(data, "x.mpeg", max_frames=3)) == 3
    with pytest.raises(UnreadableFile, match="no known image, clip or DICOM format"):
        read_bytes(data, "x")


# --- DICOM


def test_dicom_grey_is_exact_and_inverted_where_stated() -> None:
    (frame,) = read_bytes(dicom(RAMP, PatientID="P 7"))
    assert np.array_equal(frame.pixels, RAMP)
    assert frame.patient == "P 7"
    assert np.array_equal(read_bytes(dicom(RAMP, "MONOCHROME1"))[0].pixels, 255 - RAMP)


def test_dicom_colour() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (8, 10, 3), np.uint8)
    assert np.abs(read_bytes(dicom(rgb, "RGB"))[0].pixels - luma(rgb)).max() <= 0.51
    ybr = np.zeros((4, 4, 3), np.uint8) + np.array([90, 128, 128], np.uint8)
    assert np.array_equal(read_bytes(dicom(ybr, "YBR_FULL"))[0].pixels, np.full((4, 4), 90))


def test_dicom_palette() -> None:
    table = {"RedPaletteColorLookupTable": [0, 0xFF00, 0], "GreenPaletteColorLookupTable": [0, 0xFF00, 0xFF00]}
    table["BluePaletteColorLookupTable"] = [0, 0xFF00, 0]
    tags: dict[str, object] = {}
    for name, values in table.items():
        tags[name + "Descriptor"] = [3, 0, 16]
        tags[name + "Data"] = np.array(values, "<u2").tobytes()
    (frame,) = read_bytes(dicom(np.array([[0, 1, 2, 9]], np.uint8), "PALETTE COLOR", **tags))
    assert frame.pixels.tolist() == [[0, 254, 149, 149]]  # 0xFF00 / 0xFFFF * 255, and 0.587 of it


def test_deep_dicom_is_windowed_or_rescaled_over_all_frames() -> None:
    deep = np.array([[[0, 100], [200, 400]], [[800, 1000], [600, 0]]], np.uint16)
    plain = read_bytes(dicom(deep, stored=12, NumberOfFrames=2))
    assert [frame.pixels.tolist() for frame in plain] == [[[0, 26], [51, 102]], [[204, 255], [153, 0]]]
    window = {"WindowCenter": 500, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    (frame,) = read_bytes(dicom(deep[1], stored=12, **window))
    assert frame.pixels.tolist() == [[255, 255], [191, 0]]


def test_dicom_multi_frame_takes_evenly_spaced_frames() -> None:
    stack = np.stack([np.full((4, 6), number, np.uint8) for number in range(11)])
    frames = read_bytes(dicom(stack, NumberOfFrames=11), max_frames=3)
    assert [(frame.index, int(frame.pixels[0, 0])) for frame in frames] == [(0, 0), (5, 5), (10, 10)]


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.4, 0.4]}, 0.4),
        ({"PixelSpacing": [0.4, 0.5]}, None),
        ({"SequenceOfUltrasoundRegions": [region(3, 0.05)], "PixelSpacing": [9, 9]}, 0.5),
        ({"SequenceOfUltrasoundRegions": [region(4, 0.05)]}, None),  # seconds
        ({"SequenceOfUltrasoundRegions": [region(3, 0.05, 2.0)]}, None),
        ({"SequenceOfUltrasoundRegions": [region(3, 0.05), region(3, 0.05), region(4, 1.0)]}, 0.5),
        ({"SequenceOfUltrasoundRegions": [region(3, 0.05), region(3, 0.08)]}, None),
    ],
)
def test_dicom_spacing(tags: dict[str, object], spacing: float | None) -> None:
    assert read_bytes(dicom(RAMP, **tags))[0].spacing_mm == (None if spacing is None else pytest.approx(spacing))


def test_dicom_without_preamble_and_without_pixels() -> None:
    data = dicom(RAMP)
    dataset = pydicom.dcmread(BytesIO(data))
    del dataset.PixelData
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset)
    with pytest.raises(UnreadableFile, match=r"DICOM without pixel data \(US\)"):
        read_bytes(stream.getvalue())
    assert np.array_equal(read_bytes(b"X" * 128 + data[128:])[0].pixels, RAMP)


# --- refusals

HUGE = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
BOMB = (
    b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + HUGE + struct.pack(">I", zlib.crc32(b"IHDR" + HUGE))
)
BOMB += struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")) + struct.pack(
    ">I4sI", 0, b"IEND", zlib.crc32(b"IEND")
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"patient,age\n1,40\n", "text, not an image, clip or DICOM file"),
        (b"<!DOCTYPE html><html><body>404", "a web page, not an image"),
        (b"version git-lfs pointer\noid sha256:00", "a Git LFS pointer, not the file itself"),
        (b"ImFusion\x01\x00\x00\x00", "an ImFusion container (.imf) is not supported; export its frames"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "no known image, clip or DICOM format (first bytes 1f 8b 08 00"),
        (b"\x89PNG\r\n\x1a\n", "damaged still: the header cannot be read"),
        (still(RAMP, "PNG")[:60], "damaged still: "),
        (still(np.kron(RAMP, np.ones((4, 4), np.uint8)), "JPEG")[:-800], "damaged still: image file is truncated"),
        (still(RAMP, "BMP")[:-500], "damaged still: image file is truncated"),
        (clip(5, form="mp4")[:400], "damaged clip: the container holds no video stream"),
        (clip(5)[:300], "damaged"),
        (dicom(RAMP)[:-100], "damaged or unsupported dicom: ValueError"),
        (dicom(RAMP)[:140], "DICOM without pixel data (no modality)"),
        (dicom(RAMP, Rows=9000, Columns=9000), "the header states 9000 x 9000 pixels; at most 64 megapixels"),
        (BOMB, "the header states 9000 x 9000 pixels; at most 64 megapixels"),
    ],
)
def test_refusals_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_bytes(data, "scan.png")
    assert str(caught.value).startswith(reason)
    assert MAX_FRAME_PIXELS < 9000 * 9000


def test_a_wrong_name_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(still(RAMP, "PNG"))
    assert np.array_equal(read_frames(path, 1)[0].pixels, RAMP)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="the file is missing"):
        file_bytes(tmp_path / "no.png")
    with pytest.raises(UnreadableFile, match="cannot be read: Is a directory"):
        file_bytes(tmp_path)


VALID = {
    "png": still(RAMP, "PNG"),
    "jpg": still(RAMP, "JPEG"),
    "avi": clip(4),
    "dcm": dicom(RAMP),
    "gif": still(RAMP, "GIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(VALID)), st.data())
def test_damage_never_raises_anything_else(form: str, draw: st.DataObject) -> None:
    data = bytearray(VALID[form][: draw.draw(st.integers(0, len(VALID[form])))])
    for _ in range(draw.draw(st.integers(0, 4))):
        if data:
            data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        frames = read_bytes(bytes(data), f"x.{form}")
    except UnreadableFile as error:
        assert str(error)  # noqa: PT017  (either outcome is right, a third is not)
    else:
        assert all(frame.pixels.ndim == 2 and frame.pixels.dtype == np.uint8 for frame in frames)


# --- small rules


@given(st.integers(1, 5000), st.integers(1, 64))
def test_evenly_spaced(count: int, limit: int) -> None:
    chosen = evenly_spaced(count, limit)
    assert len(chosen) == min(count, limit)
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    assert all(0 <= number < count for number in chosen)
    if limit > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_eight_bits() -> None:
    assert to_eight_bits(np.array([-5, 0, 5, 10, 99]), 0, 10).tolist() == [0, 0, 128, 255, 255]
    assert to_eight_bits(np.array([7, 7]), 7, 7).tolist() == [0, 0]


# --- the real corpus


def rows(corpus: Path) -> dict[str, dict[str, str]]:
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        return {row["path"]: row for row in csv.DictReader(stream)}


def test_one_still_of_each_source_and_suffix_against_opencv(corpus: Path) -> None:
    chosen = {(r["source"], Path(p).suffix): p for p, r in rows(corpus).items() if r["media"] == "image"}
    assert {suffix for _, suffix in chosen} >= {".png", ".jpg", ".JPG", ".bmp"}
    for path in chosen.values():
        (frame,) = read_frames(corpus / path, 8)
        oracle = cv2.imread(str(corpus / path), cv2.IMREAD_COLOR).astype(np.float64) @ [0.114, 0.587, 0.299]
        assert frame.pixels.shape == oracle.shape
        assert np.abs(frame.pixels - oracle).max() <= 3.1, path  # two JPEG decoders differ by a few levels


def test_every_clip_of_the_corpus(corpus: Path) -> None:
    clips = {path: row for path, row in rows(corpus).items() if row["media"] == "video"}
    assert {Path(path).suffix.lower() for path in clips} == {".mp4", ".avi", ".mpeg"}
    for path, row in clips.items():
        frames = read_frames(corpus / path, 3)
        count = int(row["frames"])
        assert [frame.index for frame in frames] == [0, round((count - 1) / 2), count - 1], path
        assert {frame.pixels.shape for frame in frames} == {(int(row["height"]), int(row["width"]))}


@pytest.mark.parametrize(
    ("name", "indices", "spacing"),
    [
        ("color3d_jpeg_baseline.dcm", [0, 60, 119], 0.51050),  # YBR_FULL_422, multi-frame
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", [0], 0.25477),  # MONOCHROME2, lossless JPEG
        ("color-pl.dcm", [0], None),  # RGB by planes
        ("examples_jpeg2k.dcm", [0], None),  # YBR_RCT, JPEG 2000
        ("gdcm-US-ALOKA-16.dcm", [0], 0.38265),  # PALETTE COLOR, 16 bits
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_real_dicom_against_whole_file_decoding(
    corpus: Path, name: str, indices: list[int], spacing: float | None
) -> None:
    path = corpus / "pydicom_us" / name
    frames = read_frames(path, 3)
    dataset = pydicom.dcmread(path)
    array = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        colour = apply_color_lut(array, dataset)
        oracle = luma(colour) / (257 if colour.dtype == np.uint16 else 1)
    elif dataset.PhotometricInterpretation.startswith("YBR_FULL"):
        oracle = pixel_array(dataset, raw=True)[..., 0].astype(np.float64)  # Y is the luma itself
    else:
        oracle = luma(array) if array.shape[-1] == 3 else array.astype(np.float64)
    oracle = oracle.reshape(-1, *oracle.shape[-2:])
    assert [frame.index for frame in frames] == indices
    for frame in frames:
        apart = np.abs(frame.pixels - oracle[frame.index])
        assert np.percentile(apart, 99) <= 1
        assert apart.max() <= 9  # colours out of range are clipped on the way through RGB
        assert frame.spacing_mm == (None if spacing is None else pytest.approx(spacing, abs=1e-4))


def test_sniff_knows_every_file_of_the_corpus(corpus: Path) -> None:
    kinds = {"image": "still", "video": "clip", "dicom": "dicom", "imfusion": "imfusion"}
    for path, row in rows(corpus).items():
        with (corpus / path).open("rb") as stream:
            assert sniff(stream.read(132)) == kinds[row["media"]], path
