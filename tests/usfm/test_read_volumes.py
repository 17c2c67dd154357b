import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from media_factory import luma
from upath import UPath

from usfm.data.readers.decode import read_bytes, read_frames, sniff
from usfm.data.readers.frames import FrameSelection
from usfm.data.readers.volumes import read_volume
from usfm.errors import ImageTooLarge, UnreadableFile

LOOP: npt.NDArray[np.uint8] = np.random.default_rng(3).integers(0, 256, (5, 20, 30), np.uint8)  # (T, H, W)
NRRD_PACKED = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 30 20 5\nencoding: gzip\n"
FORMS = ["nii", "nii.gz", "mha", "nrrd"]


def nifti(
    samples: npt.NDArray[np.generic],
    spacing: tuple[float, ...] = (0.3, 0.3, 1.0),
    slope: float = 0.0,
    order: str = "<",
) -> bytes:
    """A NIfTI-1 file written by hand from (..., H, W): the first axis of the file is the last of the array."""
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512}
    kind = samples.dtype.str[1:]
    head = bytearray(352)
    struct.pack_into(order + "i", head, 0, 348)
    shape = samples.shape[::-1]
    struct.pack_into(order + "8h", head, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into(order + "hh", head, 70, codes[kind], 8 * samples.dtype.itemsize)
    struct.pack_into(order + "8f", head, 76, 1, *spacing, *[1] * (7 - len(spacing)))
    struct.pack_into(order + "fff", head, 108, 352, slope, 0)
    head[123] = 2  # mm
    head[344:348] = b"n+1\0"
    return bytes(head) + samples.astype(samples.dtype.newbyteorder(order)).tobytes()


def written(tmp_path: Path, image: sitk.Image, form: str, packed: bool = False) -> bytes:
    path = tmp_path / f"x.{form}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path.read_bytes()


def meta_header(data_file: str, size: str = "30 20 5", extra: str = "", kind: str = "MET_UCHAR") -> bytes:
    dims = len(size.split())
    spacing = " ".join(["0.25", "0.25", "1", "1"][:dims])
    lines = f"ObjectType = Image\nNDims = {dims}\nDimSize = {size}\nElementSpacing = {spacing}\n"
    return (lines + f"{extra}ElementType = {kind}\nElementDataFile = {data_file}\n").encode()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_nifti_rows_are_the_second_axis_of_the_file(order: str, packed: bool) -> None:
    data = nifti(LOOP, order=order)
    array, spacing = read_volume(gzip.compress(data) if packed else data)
    assert array.dtype == np.uint8
    assert np.array_equal(array, LOOP)
    assert spacing == pytest.approx(0.3)
    flat, _ = read_volume(nifti(LOOP[2]))
    assert np.array_equal(flat, LOOP[2:3])  # one picture: T = 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_against_what_was_written(tmp_path: Path, form: str, packed: bool) -> None:
    image = sitk.GetImageFromArray(LOOP)
    image.SetSpacing((0.2, 0.2, 3.0))
    data = written(tmp_path, image, form, packed)
    assert sniff(data[:1024]) == "volume"
    frames = read_bytes(data)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    for frame in frames:
        assert np.array_equal(frame.pixels, LOOP[frame.index])
        assert frame.spacing_mm == pytest.approx(0.2)
        assert frame.chroma is None
    assert np.array_equal(read_bytes(data, frame=3)[0].pixels, LOOP[3])
    with pytest.raises(UnreadableFile, match="no frame 5 here; the file has 5 frames, numbers 0 to 4"):
        read_bytes(data, frame=5)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_other_samples_are_stretched_by_one_scale_per_file(tmp_path: Path, kind: type) -> None:
    samples = (LOOP.astype(np.float64) * 3 + (0 if kind is np.uint16 else -100)).astype(kind)
    low, high = float(samples.min()), float(samples.max())
    wanted = np.rint((samples - low) * (255 / (high - low)))
    image = sitk.GetImageFromArray(samples)
    for form in FORMS:
        data = written(tmp_path, image, form)
        array, _ = read_volume(data)
        assert array.dtype == kind
        assert np.array_equal(array, samples)
        for frame in read_bytes(data, selection=FrameSelection(max_frames=2)):  # not of the frames read
            assert np.abs(frame.pixels - wanted[frame.index]).max() <= (1 if kind is np.float32 else 0)


def test_scaled_samples_and_nothing_outside_the_sector() -> None:
    scaled, _ = read_volume(nifti(LOOP.astype(np.int16), slope=0.5))
    assert np.array_equal(scaled, LOOP * 0.5)
    sector = LOOP[:1].astype(np.float32)
    sector[0, :5] = np.nan
    (frame,) = read_bytes(nifti(sector))
    assert frame.pixels[:5].max() == 0
    assert frame.pixels[5:].max() == 255


def test_slices_and_time_steps_follow_each_other() -> None:
    four = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)  # (T, Z, H, W)
    array, _ = read_volume(nifti(four))
    assert np.array_equal(array, four.reshape(6, 4, 5))


def test_colour_volumes(tmp_path: Path) -> None:
    rgb = np.random.default_rng(5).integers(0, 256, (3, 8, 9, 3), np.uint8)
    image = sitk.GetImageFromArray(rgb, isVector=True)
    for form in ("mha", "nrrd"):
        array, _ = read_volume(written(tmp_path, image, form))
        assert np.array_equal(array, rgb)
        for frame in read_bytes(written(tmp_path, image, form)):
            assert np.abs(frame.pixels - luma(rgb[frame.index])).max() <= 0.51
            assert frame.chroma is not None
            assert np.array_equal(frame.chroma, np.ptp(rgb[frame.index], axis=2))
    two = sitk.GetImageFromArray(rgb[..., :2], isVector=True)
    with pytest.raises(UnreadableFile, match="grey or colour is read"):
        read_bytes(written(tmp_path, two, "mha"))


@pytest.mark.parametrize(
    ("stated", "spacing"),
    [
        ((0.3, 0.3, 9.0), 0.3),
        ((0.3, 0.302, 1.0), 0.3),
        ((0.3, 0.31, 1.0), None),
        ((1.0, 1.0, 1.0), None),  # what is written where nothing is known
        ((1.0, 1.0, 0.5), None),
    ],
)
def test_spacing_is_stated_where_pixels_are_square(stated: tuple[float, ...], spacing: float | None) -> None:
    _, found = read_volume(nifti(LOOP, stated))
    assert found == (None if spacing is None else pytest.approx(spacing))


# --- headers that name their data file


def test_mhd_finds_its_raw_file_beside_it(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(LOOP)
    image.SetSpacing((0.2, 0.2, 1.0))
    for packed in (False, True):
        sitk.WriteImage(image, str(tmp_path / "loop.mhd"), useCompression=packed)
        frames = read_frames(tmp_path / "loop.mhd")
        assert all(np.array_equal(frame.pixels, LOOP[frame.index]) for frame in frames)
        assert frames[0].spacing_mm == pytest.approx(0.2)
    sitk.WriteImage(image, str(tmp_path / "loop.nhdr"))
    assert np.array_equal(read_frames(tmp_path / "loop.nhdr", frame=4)[0].pixels, LOOP[4])
    (tmp_path / "loop.zraw").unlink()
    sitk.WriteImage(image, str(tmp_path / "other.mhd"))
    (tmp_path / "other.raw").unlink()
    with pytest.raises(UnreadableFile, match="the file is missing"):
        read_frames(tmp_path / "other.mhd")


def test_mhd_through_any_file_system() -> None:
    folder = UPath("memory://volumes")
    (folder / "a.mhd").write_bytes(meta_header("a.raw"))
    (folder / "a.raw").write_bytes(LOOP.tobytes())
    assert np.array_equal(read_frames("memory://volumes/a.mhd", frame=1)[0].pixels, LOOP[1])


def test_a_header_without_line_end_and_with_a_head_to_skip() -> None:
    for header, raw in (
        (meta_header("a.raw").rstrip(), LOOP.tobytes()),
        (meta_header("a.raw", extra="HeaderSize = 7\n"), b"\xff" * 7 + LOOP.tobytes()),
        (meta_header("a.raw", extra="HeaderSize = -1\n"), b"\xff" * 7 + LOOP.tobytes()),
        (meta_header("a.raw", extra="Comment = my scan\n").replace(b"\n", b"\r\n"), LOOP.tobytes()),
    ):
        array, spacing = read_volume(header, sidecar={"a.raw": raw}.__getitem__)
        assert np.array_equal(array, LOOP)
        assert spacing == 0.25


@pytest.mark.parametrize(
    "name",
    ["../a.raw", "/etc/hostname", "sub/a.raw", "..\\a.raw", "C:a.raw", "LIST", "img%03d.raw 1 5 1", ".", "..", ""],
)
def test_names_that_leave_the_folder_are_refused(name: str) -> None:
    def never(asked: str) -> bytes:
        raise AssertionError(asked)

    with pytest.raises(UnreadableFile, match="only one file of the same folder"):
        read_volume(meta_header(name), sidecar=never)
    if name:
        nrrd = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 30 20 5\nencoding: raw\ndata file: {name}\n"
        with pytest.raises(UnreadableFile, match="only one file of the same folder"):
            read_volume(nrrd.encode(), sidecar=never)


def test_no_disguise_makes_the_library_open_a_named_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(LOOP.tobytes())
    plain = meta_header("LOCAL").removesuffix(b"ElementDataFile = LOCAL\n")
    for line in (f"ElementDataFile : {secret}", f"  ElementDataFile={secret}", f"ElementDataFile\t=\t{secret}"):
        for end in (b"\n", b"\nElementDataFile = LOCAL\n"):
            with pytest.raises(UnreadableFile):
                read_volume(plain + line.encode() + end)
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 30 20 5\nencoding: raw\n"
    for field in ("data file", "datafile", "Data File", "DATAFILE", "data file "):
        with pytest.raises(UnreadableFile):
            read_volume(nrrd + f"{field}: {secret}\n\n".encode())


def test_a_header_alone_asks_for_its_data() -> None:
    with pytest.raises(UnreadableFile, match="the volume's samples are in another file, 'a.raw'; give both"):
        read_bytes(meta_header("a.raw"), "a.mhd")


# --- damage and bombs


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (nifti(LOOP)[:-1], "damaged volume: the header states 3352 bytes, the file holds 3351"),
        (nifti(LOOP)[:350], "damaged volume: 350 bytes are no whole NIfTI header"),
        (gzip.compress(nifti(LOOP))[:-200], "damaged volume: the gzip file is cut off after"),
        (flipped(gzip.compress(nifti(LOOP)), 2000), "damaged volume: .*incorrect data check"),
        (gzip.compress(b"patient,age\n" * 400), "no known image, clip or DICOM format"),
        (meta_header("LOCAL") + LOOP.tobytes()[:-1], "damaged volume: "),
        (meta_header("LOCAL", kind="MET_NONSENSE") + LOOP.tobytes(), "damaged volume: "),
        (meta_header("LOCAL", extra="CompressedData = True\n") + zlib.compress(LOOP.tobytes())[:-900], "cut off"),
        (meta_header("LOCAL", extra="CompressedData = True\n") + bytes(900), "damaged volume: "),
        (NRRD_PACKED + b"\n" + gzip.compress(LOOP.tobytes())[:-900], "damaged volume: "),
        (
            b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 30 20 5\nencoding: raw\n\n" + bytes(2999),
            "damaged volume: ",
        ),
        (b"NRRD0004\n", "damaged volume: "),
        (b"NDims = 3\n", "damaged volume: its header names no ElementDataFile"),
    ],
)
def test_damage_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read_bytes(data, "x.nii.gz")


def test_a_nifti_pair_is_refused() -> None:
    data = bytearray(nifti(LOOP))
    data[344:348] = b"ni1\0"
    with pytest.raises(UnreadableFile, match=r"a NIfTI pair \(.hdr and .img\)"):
        read_bytes(bytes(data))


def stating(*sizes: int) -> bytes:
    data = bytearray(nifti(LOOP))
    struct.pack_into("<8h", data, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (stating(30_000, 30_000, 100), UnreadableFile, "the header states 85831 MiB of samples; at most 512"),
        (gzip.compress(stating(30_000, 30_000, 100)), UnreadableFile, "85831 MiB of samples"),
        (stating(30_000, 10_000, 1), ImageTooLarge, "states"),
        (stating(-5, 20, 5), UnreadableFile, "impossible sizes"),
        (meta_header("LOCAL", "3000 2000 100000"), UnreadableFile, "MiB of samples; at most 512"),
        (meta_header("LOCAL", "60000 60000 1"), ImageTooLarge, "the header states 60000 x 60000 pixels"),
        (meta_header("LOCAL", "3000 2000 15", kind="MET_DOUBLE"), UnreadableFile, "the header states 687 MiB"),
        (b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 90000 90000\nencoding: raw\n\n", ImageTooLarge, "90000"),
        (
            NRRD_PACKED + b"byte skip: -1\n\n" + gzip.compress(bytes(5000)),
            UnreadableFile,
            "a negative byte skip into packed data",
        ),
    ],
)
def test_stated_sizes_are_refused_from_the_header(data: bytes, kind: type[UnreadableFile], reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason if kind is UnreadableFile else None):
        read_bytes(data)
