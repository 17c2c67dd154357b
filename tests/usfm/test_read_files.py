"""Whatever a file is: where it lies, what it says it is, damage of every kind, what bombs may take."""

import csv
import functools
import gzip
import itertools
import os
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_factory import RAMP, clip, dicom, still
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless
from upath import UPath

from usfm.data import patience
from usfm.data.readers import decode
from usfm.data.readers.decode import HEAD_BYTES, beside, file_bytes, read_bytes, read_frames, sniff
from usfm.errors import EnvironmentProblem, UnreadableFile

REPOSITORY = Path(__file__).resolve().parents[2]


def volume(form: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{form}"
        sitk.WriteImage(sitk.GetImageFromArray(np.stack([RAMP, RAMP // 2])), str(path))
        return path.read_bytes()


# --- what is no medium at all


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"patient,age\n1,40\n", "text, not an image, clip or DICOM file"),
        (b"<!DOCTYPE html><html><body>404", "a web page, not an image"),
        (b'<!doctype HTML PUBLIC "x">\n<body>404', "a web page, not an image"),
        (b"version git-lfs pointer\noid sha256:00", "a Git LFS pointer, not the file itself"),
        (b"ImFusion\x01\x00\x00\x00", "an ImFusion container (.imf) is not supported; export its frames"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "no known image, clip or DICOM format (first bytes 1f 8b 08 00"),
        (gzip.compress(b"some other file" * 99, mtime=0), "no known image, clip or DICOM format"),
        (b"PK\x03\x04" + bytes(100), "no known image, clip or DICOM format (first bytes 50 4b 03 04"),
        (bytes(5000), "no known image, clip or DICOM format (first bytes 00 00"),
    ],
)
def test_what_is_no_medium_is_named(data: bytes, reason: str) -> None:
    for name in ("scan.png", "scan.dcm", "scan"):
        with pytest.raises(UnreadableFile) as caught:
            read_bytes(data, name)
        assert str(caught.value).startswith(reason)


def test_a_wrong_name_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(still(RAMP, "PNG"))
    assert np.array_equal(read_frames(path)[0].pixels, RAMP)


def test_sniff_sees_volumes_by_their_bytes() -> None:
    for form in ("nii", "nii.gz", "mha", "nrrd"):
        assert sniff(volume(form)[:HEAD_BYTES]) == "volume"
    packed = volume("nii.gz")[:40]  # too little to look inside
    assert (sniff(packed), sniff(packed, "heart.nii.gz"), sniff(packed, "heart.tar.gz")) == ("", "volume", "")
    assert sniff(b"# a list\nNDims = 3\n") == "volume"
    assert sniff(b"a page about NDims = 3\n") == ""


# --- where files lie


def test_a_location_of_any_file_system(tmp_path: Path) -> None:
    data = still(RAMP, "PNG")
    (tmp_path / "a.png").write_bytes(data)
    UPath("memory://readers/a.png").parent.mkdir(parents=True, exist_ok=True)
    UPath("memory://readers/a.png").write_bytes(data)
    for place in (tmp_path / "a.png", str(tmp_path / "a.png"), UPath(tmp_path / "a.png"), "memory://readers/a.png"):
        assert file_bytes(place) == data
        assert beside(place)("a.png") == data
        assert np.array_equal(read_frames(place)[0].pixels, RAMP)


def test_missing_files_folders_and_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        for name in ("pipe.png", "socket.png"):
            with pytest.raises(UnreadableFile, match="no regular file"):
                file_bytes(tmp_path / name)
    with pytest.raises(UnreadableFile, match="no regular file"):
        file_bytes("/dev/zero")
    with pytest.raises(UnreadableFile, match="the file is missing"):
        file_bytes(tmp_path / "no.png")
    with pytest.raises(UnreadableFile, match="the file is missing"):
        file_bytes("memory://readers/no.png")
    for folder in (tmp_path, "memory://readers"):
        UPath("memory://readers/x").write_bytes(b"1")
        with pytest.raises(UnreadableFile, match="a folder, not a file"):
            file_bytes(folder)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UnreadableFile, match="the file cannot be read: .*symbolic links"):
        file_bytes(tmp_path / "loop")
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        file_bytes("nosuchprotocol://x/a.png")


def test_too_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge.avi").open("wb") as stream:
        stream.truncate((2 << 30) + 1)  # sparse
    with pytest.raises(UnreadableFile, match="the file has 2.0 GiB; at most 2 GiB are read"):
        file_bytes(tmp_path / "huge.avi")
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 100)
    (tmp_path / "a").write_bytes(bytes(100))
    assert len(file_bytes(tmp_path / "a")) == 100
    (tmp_path / "a").write_bytes(bytes(101))
    with pytest.raises(UnreadableFile, match="at most"):
        file_bytes(tmp_path / "a")
    monkeypatch.setattr(decode, "_size", lambda place: 0)  # a store that states no size
    with pytest.raises(UnreadableFile, match="at most"):
        file_bytes(tmp_path / "a")


# --- damage

VALID = {
    "png": still(RAMP, "PNG"),
    "jpg": still(RAMP, "JPEG"),
    "tif": still(RAMP, "TIFF"),
    "gif": still(RAMP, "GIF"),
    "avi": clip(4),
    "mp4": clip(4, "libx264", "mp4"),
    "dcm": dicom(RAMP),
    "jpeg.dcm": dicom(RAMP, syntax=JPEGBaseline8Bit, coded=[still(RAMP, "JPEG")]),
    "rle.dcm": dicom(RAMP, syntax=RLELossless, coded=[struct.pack("<16I", 1, 64, *[0] * 14) + b"\x7f" * 300]),
    "nii": volume("nii"),
    "nii.gz": volume("nii.gz"),
    "mha": volume("mha"),
    "nrrd": volume("nrrd"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(VALID)), st.data())
def test_damage_never_raises_anything_else(form: str, draw: st.DataObject) -> None:
    data = bytearray(VALID[form][: draw.draw(st.integers(0, len(VALID[form])))])
    for _ in range(draw.draw(st.integers(0, 4))):
        if data:
            data[draw.draw(st.integers(0, min(len(data), 800) - 1))] = draw.draw(st.integers(0, 255))
    try:
        frames = read_bytes(bytes(data), f"x.{form}")
    except UnreadableFile as error:
        assert str(error)  # noqa: PT017  (either outcome is right, a third is not)
    else:
        assert all(frame.pixels.ndim == 2 and frame.pixels.dtype == np.uint8 for frame in frames)


# --- bombs

ZEROS = 160 << 20
READ_ALL = """
import resource, sys
from pathlib import Path
from usfm.data.readers.decode import read_bytes, read_frames
from usfm.errors import EnvironmentProblem, UnreadableFile
for path in sorted(Path(sys.argv[1]).glob("warm*")):  # loads every codec
    read_frames(path)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).glob("bomb*")):
    try:
        read_frames(path)
        said = "read"
    except UnreadableFile as error:
        said = str(error)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{path.name}|{grown:.0f}|{said}")
"""


@functools.cache
def zeros_packed(wbits: int, head: bytes = b"") -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(ZEROS >> 20)]
    return b"".join([*parts, packer.flush()])


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_zeros(width: int, height: int, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zeros_packed(15)) + chunk(b"IEND", b"")


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """Files that unfold to 160 MiB and more: refused, or read no further than the small size that they state."""
    nrrd = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 60 40 2\nencoding: gzip\n"
    mha = b"NDims = 3\nDimSize = 60 40 2\nElementType = MET_UCHAR\nCompressedData = True\nElementDataFile = LOCAL\n"
    jpeg2000 = still(RAMP, "JPEG2000", no_jp2=True)
    at = jpeg2000.index(b"\xff\x51") + 6
    huge = bytearray(jpeg2000)
    huge[at : at + 8] = huge[at + 16 : at + 24] = struct.pack(">II", 60_000, 60_000)
    files = {
        "warm.png": still(RAMP, "PNG"),
        "warm.dcm": dicom(RAMP, syntax=JPEG2000Lossless, coded=[jpeg2000]),
        "warm.avi": clip(3),
        "warm.nii.gz": VALID["nii.gz"],
        "warm.nrrd": VALID["nrrd"],
        "bomb_a.nii.gz": zeros_packed(31, volume("nii")),
        "bomb_b.nii.gz": zeros_packed(31),
        "bomb_c.nrrd": nrrd + b"\n" + zeros_packed(31),
        "bomb_d.nrrd": nrrd + b"byte skip: -1\n\n" + zeros_packed(31),
        "bomb_e.mha": mha + zeros_packed(15),
        "bomb_f.png": png_of_zeros(16_000, 10_000),
        "bomb_g.png": png_of_zeros(60, 40),
        "bomb_h.png": png_of_zeros(60, 40, chunk(b"zTXt", b"k\0\0" + zeros_packed(15))),
        "bomb_i.dcm": dicom(RAMP, syntax=JPEG2000Lossless, coded=[bytes(huge)]),
        "bomb_j.dcm": dicom(RAMP, Rows=60_000, Columns=60_000),
        "bomb_k.gif": still(RAMP, "GIF")[:6] + struct.pack("<HH", 65_000, 65_000) + still(RAMP, "GIF")[10:],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_ALL, str(tmp_path)],
        capture_output=True, text=True, check=True, timeout=120, cwd=REPOSITORY,
    )  # fmt: skip
    said = {name: (float(grown), what) for name, grown, what in (x.split("|", 2) for x in done.stdout.splitlines())}
    assert set(said) == {name for name in files if name.startswith("bomb")}
    assert said["bomb_a.nii.gz"][1] == "read"
    for name in set(said) - {
        "bomb_a.nii.gz",
        "bomb_c.nrrd",
        "bomb_e.mha",
        "bomb_g.png",
    }:  # these state a small size
        assert said[name][1] != "read", name
    assert max(grown for grown, _ in said.values()) < 64, said


# --- the real corpus


def test_sniff_knows_every_file_of_the_corpus(corpus: Path) -> None:
    kinds = {"image": "still", "video": "clip", "dicom": "dicom", "imfusion": "imfusion"}
    with (corpus / "manifest.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            with (corpus / row["path"]).open("rb") as stream:
                head = stream.read(HEAD_BYTES)
            assert sniff(head) == sniff(head[:132]) == kinds[row["media"]], row["path"]


def test_stream_of_bytes_and_path_agree(tmp_path: Path) -> None:
    stream = BytesIO(VALID["avi"])
    (tmp_path / "a.avi").write_bytes(stream.getvalue())
    apart = zip(read_bytes(stream.getvalue()), read_frames(tmp_path / "a.avi"), strict=True)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in apart)


def test_a_storage_that_does_not_answer_is_no_reason_to_refuse_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    place = UPath("memory://away/x.png")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"here")
    answers = iter([ConnectionError("reset"), ConnectionError("refused")])
    whole = type(place.fs).open

    def opened(fs, path, *args, **kwargs):
        if (error := next(answers, None)) is not None:
            raise error
        return whole(fs, path, *args, **kwargs)

    monkeypatch.setattr(type(place.fs), "open", opened)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    assert file_bytes(place) == b"here"
    answers = iter(lambda: ConnectionError("refused"), None)
    clock = itertools.count(0, 10)
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(EnvironmentProblem, match="could not be read for 120 s: refused"):
        file_bytes(place)
