from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from coded_frames import CODED
from media_factory import COLOUR, DEEP, RAMP, clip, dicom, luma, movie, psnr, still
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, convert_color_space, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from usfm.data.readers import dicom as dicom_reader
from usfm.data.readers.decode import Frame, open_bytes, read_bytes, read_frames
from usfm.data.readers.frames import FrameSelection
from usfm.errors import ImageTooLarge, UnreadableFile

ROOT = "1.2.840.10008.1.2.4."
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
DEEP_EIGHT = np.rint((DEEP - 5.0) * (255 / (216 * 16)))  # 216: the largest value of RAMP


def only(data: bytes) -> Frame:
    (frame,) = read_bytes(data)
    return frame


def recoded(data: bytes, syntax: str) -> bytes:
    """The same file, its pixels coded anew by pydicom."""
    dataset = pydicom.dcmread(BytesIO(data))
    dataset.compress(syntax, generate_instance_uid=False)
    stream = BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


# --- each transfer syntax against known pixels


@pytest.mark.parametrize("syntax", NATIVE)
def test_native_pixels_are_exact(syntax: str) -> None:
    assert np.array_equal(only(dicom(RAMP, syntax=syntax)).pixels, RAMP)
    assert np.array_equal(only(dicom(DEEP, stored=12, syntax=syntax)).pixels, DEEP_EIGHT)
    for planar in (0, 1):
        stored = COLOUR if planar == 0 else np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).reshape(COLOUR.shape)
        frame = only(dicom(stored, "RGB", syntax=syntax, PlanarConfiguration=planar))
        assert np.abs(frame.pixels - luma(COLOUR)).max() <= 0.51
        assert frame.chroma is not None
        assert np.array_equal(frame.chroma, COLOUR.max(axis=2) - COLOUR.min(axis=2))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_coding_is_exact(syntax: str) -> None:
    assert np.array_equal(only(recoded(dicom(RAMP), syntax)).pixels, RAMP)
    assert np.array_equal(only(recoded(dicom(DEEP, stored=12), syntax)).pixels, DEEP_EIGHT)
    assert np.abs(only(recoded(dicom(COLOUR, "RGB"), syntax)).pixels - luma(COLOUR)).max() <= 0.51
    stack = np.stack([RAMP, RAMP // 2, RAMP // 3])
    frames = read_bytes(recoded(dicom(stack, NumberOfFrames=3), syntax))
    assert all(np.array_equal(frame.pixels, stack[frame.index]) for frame in frames)
    (second,) = read_bytes(recoded(dicom(stack, NumberOfFrames=3), syntax), frame=1)
    assert np.array_equal(second.pixels, stack[1])


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (ROOT + "80", "jpegls"),
        (ROOT + "57", "jpeg_lossless"),
        (HTJ2KLossless, "htj2k"),
        (HTJ2KLosslessRPCL, "htj2k"),
    ],
)
def test_lossless_codecs_that_only_decode_here(syntax: str, name: str) -> None:
    assert np.array_equal(only(dicom(RAMP, syntax=syntax, coded=[CODED[name]])).pixels, RAMP)


@pytest.mark.parametrize(
    ("syntax", "name", "photometric"), [(ROOT + "80", "jpegls_rgb", "RGB"), (HTJ2KLossless, "htj2k_rgb", "YBR_RCT")]
)
def test_lossless_colour_codecs_that_only_decode_here(syntax: str, name: str, photometric: str) -> None:
    frame = only(dicom(COLOUR, photometric, syntax=syntax, coded=[CODED[name]]))
    assert np.abs(frame.pixels - luma(COLOUR)).max() <= 0.51
    assert frame.chroma is not None
    assert np.array_equal(frame.chroma, COLOUR.max(axis=2) - COLOUR.min(axis=2))


def test_lossy_codecs_stay_close() -> None:
    baseline = dicom(RAMP, syntax=JPEGBaseline8Bit, coded=[still(RAMP, "JPEG", quality=95)])
    assert psnr(only(baseline).pixels, RAMP) > 45
    twelve_bits = dicom(DEEP, stored=12, syntax=ROOT + "51", coded=[CODED["jpeg_extended_deep"]])
    assert psnr(only(twelve_bits).pixels, DEEP_EIGHT) > 45
    assert psnr(only(dicom(RAMP, syntax=ROOT + "203", coded=[CODED["htj2k_lossy"]])).pixels, RAMP) > 45
    lossy = still(RAMP, "JPEG2000", irreversible=True, no_jp2=True)
    assert psnr(only(dicom(RAMP, syntax=ROOT + "91", coded=[lossy])).pixels, RAMP) > 45
    for photometric, subsampling in (("YBR_FULL", 0), ("YBR_FULL_422", 1)):
        coded = still(COLOUR, "JPEG", quality=95, subsampling=subsampling)
        frame = only(dicom(COLOUR, photometric, syntax=JPEGBaseline8Bit, coded=[coded]))
        assert psnr(frame.pixels, luma(COLOUR)) > 40
        assert frame.chroma is not None
        assert psnr(frame.chroma, np.ptp(COLOUR, axis=2)) > (30 if subsampling else 35)


TWINS = [  # file, the same image uncompressed, least PSNR (inf: exact)
    ("MR_small_RLE.dcm", "MR_small.dcm", np.inf),
    ("MR_small_bigendian.dcm", "MR_small.dcm", np.inf),
    ("MR_small_implicit.dcm", "MR_small.dcm", np.inf),
    ("MR_small_jp2klossless.dcm", "MR_small.dcm", np.inf),
    ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm", np.inf),
    ("SC_rgb_rle.dcm", "SC_rgb.dcm", np.inf),
    ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb.dcm", np.inf),  # lossless JPEG in colour
    ("SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_16bit_2frame.dcm", np.inf),
    ("SC_rgb_jls_lossy_line.dcm", "SC_rgb.dcm", 35),
    ("SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_ebcynp_dcmd.dcm", 40),  # baseline, YBR_FULL_422
    ("SC_ybr_full_422_uncompressed.dcm", "SC_rgb.dcm", 30),  # hard edges of colour, halved
    ("SC_ybr_full_uncompressed.dcm", "SC_rgb.dcm", 40),
    ("OBXXXX1A_rle_2frame.dcm", "OBXXXX1A_2frame.dcm", np.inf),  # palette
    ("OBXXXX1A_expb_2frame.dcm", "OBXXXX1A_2frame.dcm", np.inf),  # big endian, pixels and tables
    ("gdcm-US-ALOKA-16_big.dcm", "gdcm-US-ALOKA-16.dcm", np.inf),
    ("US1_J2KR.dcm", "US1_UNCR.dcm", np.inf),  # YBR_RCT
    ("US1_J2KI.dcm", "US1_UNCI.dcm", 40),  # YBR_ICT
    ("emri_small_jpeg_2k_lossless.dcm", "emri_small.dcm", np.inf),
    ("emri_small_jpeg_ls_lossless.dcm", "emri_small.dcm", np.inf),
    ("emri_small_RLE.dcm", "emri_small.dcm", np.inf),
]


def sample(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


@pytest.mark.parametrize(("name", "reference", "least"), TWINS)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_files_of_other_writers_against_their_uncompressed_twins(name: str, reference: str, least: float) -> None:
    found, wanted = read_bytes(sample(name)), read_bytes(sample(reference))
    assert len(found) == len(wanted) >= 1
    for frame, twin in zip(found, wanted, strict=True):
        if least == np.inf:
            assert np.array_equal(frame.pixels, twin.pixels)
        assert psnr(frame.pixels, twin.pixels) >= least
    by_change = FrameSelection(method="change")
    assert np.array_equal(read_bytes(sample(name), selection=by_change)[0].pixels, found[0].pixels)


@pytest.mark.parametrize(
    ("number", "codec", "form"),
    [
        ("100", "mpeg2video", "mpeg2video"),
        ("100", "mpeg2video", "vob"),
        ("101", "mpeg2video", "mpegts"),
        ("101.1", "mpeg2video", "mpeg2video"),
        ("102", "libx264", "h264"),
        ("103", "libx264", "mp4"),
        ("104", "libx264", "mpegts"),
        ("105.1", "libx264", "mp4"),
        ("106", "libx264", "h264"),
        ("107", "libx265", "hevc"),
        ("108", "libx265", "mp4"),
    ],
)
@pytest.mark.parametrize("fragments", [1, 3])
def test_video_syntaxes(number: str, codec: str, form: str, fragments: int) -> None:
    stream = clip(30, codec, form)
    cuts = [len(stream) * part // fragments // 2 * 2 for part in range(fragments)] + [len(stream)]
    parts = [stream[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    data = dicom(
        np.zeros((30, 48, 64, 3), np.uint8), "YBR_PARTIAL_420", syntax=ROOT + number, coded=parts, NumberOfFrames=30
    )
    frames = read_bytes(data, selection=FrameSelection(max_frames=4))
    assert [frame.index for frame in frames] == [0, 10, 19, 29]
    for frame in frames:
        assert frame.pixels.shape == (48, 64)
        assert float(frame.pixels.mean()) == pytest.approx(10 + 4 * frame.index, abs=1.9)
    assert np.array_equal(read_bytes(data, frame=19)[0].pixels, frames[2].pixels)


def test_video_keeps_its_header() -> None:
    coded = movie([np.full((48, 64, 3), 99, np.uint8)] * 3, "libx264", "mp4")
    tags = {"PatientID": "P 7", "PixelSpacing": [0.3, 0.3], "BurnedInAnnotation": "YES", "Manufacturer": "ACME"}
    stated = dicom(np.zeros((48, 64, 3), np.uint8), "YBR_PARTIAL_420", syntax=ROOT + "102", coded=[coded], **tags)
    frame = read_bytes(stated)[0]
    assert (frame.patient, frame.spacing_mm, frame.burned_in, frame.device) == ("P 7", 0.3, True, "ACME")


# --- what the numbers mean


def test_monochrome1_is_inverted_and_few_bits_are_widened() -> None:
    assert np.array_equal(only(dicom(RAMP, "MONOCHROME1")).pixels, 255 - RAMP)
    six = dicom(np.array([[0, 21], [42, 63]], np.uint8), stored=6)
    assert only(six).pixels.tolist() == [[0, 85], [170, 255]]
    wide = dicom(np.array([[0, 21], [42, 255]], np.uint16), stored=8)  # 8 bits in 16
    assert only(wide).pixels.tolist() == [[0, 21], [42, 255]]


def test_ybr() -> None:
    frame = only(dicom(np.full((4, 4, 3), [90, 128, 128], np.uint8), "YBR_FULL"))
    assert np.array_equal(frame.pixels, np.full((4, 4), 90))
    assert frame.chroma is None
    smooth = np.uint8(128 + 60 * np.sin(np.arange(40 * 60 * 3).reshape(40, 60, 3) / [900, 1100, 1300]))
    ybr = convert_color_space(smooth, "RGB", "YBR_FULL")
    assert psnr(only(dicom(ybr, "YBR_FULL")).pixels, luma(smooth)) > 45


def test_palette() -> None:
    table = {"RedPaletteColorLookupTable": [0, 0xFF00, 0], "GreenPaletteColorLookupTable": [0, 0xFF00, 0xFF00]}
    table["BluePaletteColorLookupTable"] = [0, 0xFF00, 0]
    tags: dict[str, object] = {}
    for name, values in table.items():
        tags[name + "Descriptor"] = [3, 0, 16]
        tags[name + "Data"] = np.array(values, "<u2").tobytes()
    frame = only(dicom(np.array([[0, 1, 2, 9]], np.uint8), "PALETTE COLOR", **tags))
    assert frame.pixels.tolist() == [[0, 254, 149, 149]]  # 0xFF00 / 0xFFFF * 255, and 0.587 of it
    assert frame.chroma is not None
    assert frame.chroma.tolist() == [[0, 0, 254, 254]]
    # what a frame shows does not change how the table is read: here only its dark entries are used
    assert only(dicom(np.zeros((1, 4), np.uint8), "PALETTE COLOR", **tags)).pixels.max() == 0


def test_deep_pixels_are_windowed_or_stretched_over_all_frames() -> None:
    deep = np.array([[[0, 100], [200, 400]], [[800, 1000], [600, 0]]], np.uint16)
    plain = dicom(deep, stored=12, NumberOfFrames=2)
    assert [f.pixels.tolist() for f in read_bytes(plain)] == [[[0, 26], [51, 102]], [[204, 255], [153, 0]]]
    assert read_bytes(plain, frame=0)[0].pixels.tolist() == [[0, 26], [51, 102]]  # whatever else is read
    window = {"WindowCenter": 500, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    assert only(dicom(deep[1], stored=12, **window)).pixels.tolist() == [[255, 255], [191, 0]]
    # a frame that does not fill the window is not stretched
    assert only(dicom(deep[0] // 4 + 400, stored=12, **window)).pixels.tolist() == [[64, 80], [96, 128]]
    assert only(dicom(deep[1], stored=12, WindowCenter=None, WindowWidth=None)).pixels.max() == 255


def test_multi_frame_takes_evenly_spaced_frames_or_the_one_asked_for() -> None:
    stack = np.stack([np.full((4, 6), number, np.uint8) for number in range(11)])
    data = dicom(stack, NumberOfFrames=11)
    frames = read_bytes(data, selection=FrameSelection(max_frames=3))
    assert [(frame.index, int(frame.pixels[0, 0])) for frame in frames] == [(0, 0), (5, 5), (10, 10)]
    assert [(frame.index, int(frame.pixels[0, 0])) for frame in read_bytes(data, frame=7)] == [(7, 7)]
    with pytest.raises(UnreadableFile, match="no frame 11 here; the file has 11 frames, numbers 0 to 10"):
        read_bytes(data, frame=11)


def test_a_bare_data_set_without_preamble_and_file_meta() -> None:
    dataset = pydicom.dcmread(BytesIO(dicom(RAMP)))
    del dataset.file_meta
    dataset.preamble = None
    for implicit in (True, False):
        stream = BytesIO()
        pydicom.dcmwrite(stream, dataset, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert b"DICM" not in stream.getvalue()[:200]
        assert np.array_equal(only(stream.getvalue()).pixels, RAMP)
    assert np.array_equal(only(b"X" * 128 + dicom(RAMP)[128:]).pixels, RAMP)


# --- damage and bombs


def test_without_pixels() -> None:
    dataset = pydicom.dcmread(BytesIO(dicom(RAMP)))
    del dataset.PixelData
    stream = BytesIO()
    pydicom.dcmwrite(stream, dataset)
    with pytest.raises(UnreadableFile, match=r"DICOM without pixel data \(US\)"):
        read_bytes(stream.getvalue())


def stating_size(codestream: bytes, marker: bytes, at: int, size: bytes) -> bytes:
    start = codestream.index(marker) + at
    return codestream[:start] + size + codestream[start + len(size) :]


HUGE_J2K = stating_size(CODED["htj2k"], b"\xff\x51", 6, (60_000).to_bytes(4, "big") * 2)
HUGE_J2K = stating_size(HUGE_J2K, b"\xff\x51", 22, (60_000).to_bytes(4, "big") * 2)
HUGE_JPEG = stating_size(still(RAMP, "JPEG"), b"\xff\xc0", 5, (60_000).to_bytes(2, "big") * 2)


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (dicom(RAMP)[:-100], UnreadableFile, "damaged or unsupported dicom: ValueError"),
        (dicom(RAMP)[:140], UnreadableFile, r"DICOM without pixel data \(no modality\)"),
        (dicom(RAMP, Rows=9000, Columns=9000), ImageTooLarge, "the header states 9000 x 9000 pixels; at most 64"),
        (dicom(RAMP, Rows=0), UnreadableFile, "the header states a size of 60 x 0 pixels"),
        (dicom(RAMP, NumberOfFrames=0x7FFFFFFF), UnreadableFile, "damaged or unsupported dicom: ValueError"),
        (dicom(RAMP, NumberOfFrames=-3), UnreadableFile, "DICOM that states -3 frames"),
        (dicom(RAMP, SamplesPerPixel=4), UnreadableFile, "DICOM with 4 samples of 8 bits per pixel"),
        (dicom(RAMP, syntax=HTJ2KLossless, coded=[HUGE_J2K]), ImageTooLarge, "states 60000 x 60000 pixels"),
        (dicom(RAMP, syntax=JPEG2000Lossless, coded=[HUGE_J2K]), ImageTooLarge, "states 60000 x 60000 pixels"),
        (dicom(RAMP, syntax=JPEGBaseline8Bit, coded=[HUGE_JPEG]), ImageTooLarge, "states 60000 x 60000 pixels"),
        (
            dicom(np.stack([RAMP] * 5), NumberOfFrames=5, syntax=ROOT + "80", coded=[CODED["jpegls"]] * 2),
            UnreadableFile,
            "DICOM that states 5 frames and holds 2",
        ),
        (dicom(RAMP, syntax=ROOT + "102", coded=[b"no video at all."]), UnreadableFile, "damaged"),
        (dicom(RAMP, syntax=ROOT + "92", coded=[b"12"]), UnreadableFile, "unsupported dicom: NotImpl"),
        (dicom(RAMP, syntax=DeflatedExplicitVRLittleEndian)[:-30], UnreadableFile, "a deflated DICOM that is cut"),
    ],
)
def test_refusals_say_why(data: bytes, kind: type[UnreadableFile], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        read_bytes(data)


def test_a_deflated_bomb_is_not_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_reader, "MAX_INFLATED_BYTES", 100_000)
    bomb = dicom(np.zeros((400, 400), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 2000
    with pytest.raises(UnreadableFile, match="a decompression bomb"):
        read_bytes(bomb)


def test_opening_decodes_nothing() -> None:
    stack = open_bytes(dicom(RAMP, syntax=JPEGBaseline8Bit, coded=[b"\xff\xd8nothing."], NumberOfFrames=9))
    assert (stack.width, stack.height, stack.count) == (60, 40, 9)


# --- the real corpus


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("color3d_jpeg_baseline.dcm", [0, 60, 119]),  # YBR_FULL_422, multi-frame
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", [0]),  # MONOCHROME2, lossless JPEG
        ("color-pl.dcm", [0]),  # RGB by planes
        ("examples_jpeg2k.dcm", [0]),  # YBR_RCT, JPEG 2000
        ("gdcm-US-ALOKA-16.dcm", [0]),  # PALETTE COLOR, 16 bits
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_real_files_against_plain_decoding(corpus: Path, name: str, indices: list[int]) -> None:
    path = corpus / "pydicom_us" / name
    frames = read_frames(path, FrameSelection(max_frames=3))
    dataset = pydicom.dcmread(path)
    photometric = dataset.PhotometricInterpretation
    assert [frame.index for frame in frames] == indices
    for frame in frames:
        array = pixel_array(dataset, index=frame.index, raw=photometric.startswith("YBR_FULL"))
        oracle: npt.NDArray[np.float64]
        if photometric == "PALETTE COLOR":
            colour = apply_color_lut(array, dataset)
            oracle = luma(colour) / (257 if colour.dtype == np.uint16 else 1)
        elif photometric.startswith("YBR_FULL"):
            oracle = array[..., 0].astype(np.float64)  # Y is the luma itself
        else:
            oracle = luma(array) if array.shape[-1] == 3 else array.astype(np.float64)
        apart = np.abs(frame.pixels - oracle)
        assert np.percentile(apart, 99) <= 1
        assert apart.max() <= 9  # colours out of range are clipped on the way through RGB
