import csv
import re
import struct
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import clip, luma, movie, psnr

from usfm.data.readers.decode import read_bytes, read_frames
from usfm.data.readers.frames import FrameSelection
from usfm.errors import UnreadableFile


def at_most(count: int) -> FrameSelection:
    return FrameSelection(max_frames=count)


@pytest.mark.parametrize(
    ("codec", "form"),
    [
        ("mpeg4", "avi"),
        ("mpeg4", "mov"),
        ("mpeg4", "mp4"),
        ("mpeg1video", "mpeg"),
        ("mpeg2video", "vob"),
        ("libx264", "mp4"),
        ("libx264", "matroska"),
        ("mjpeg", "avi"),
        ("wmv2", "asf"),
    ],
)
def test_clip_frames_are_those_of_their_number(codec: str, form: str) -> None:
    frames = read_bytes(clip(40, codec, form) if codec != "mjpeg" else mjpeg(40), selection=at_most(5))
    assert [frame.index for frame in frames] == [0, 10, 20, 29, 39]
    for frame in frames:
        assert frame.pixels.shape == (48, 64)
        assert float(frame.pixels.mean()) == pytest.approx(10 + 4 * frame.index, abs=1.9)


def mjpeg(count: int) -> bytes:
    stream = BytesIO()
    with av.open(stream, "w", format="avi") as container:
        track = container.add_stream("mjpeg", rate=25)
        track.width, track.height, track.pix_fmt = 64, 48, "yuvj420p"
        for number in range(count):
            level = np.full((48, 64, 3), 10 + 4 * number, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


def test_colour_frames_against_a_plain_decode() -> None:
    waves = np.sin(np.arange(96) / 7)[None, :, None] * np.cos(np.arange(64) / 9)[:, None, None]
    colours = [np.uint8(128 + 90 * waves * [1.0, np.cos(n / 3), -1.0]) for n in range(12)]
    data = movie(colours, "libx264", "mp4")
    with av.open(BytesIO(data)) as container:
        oracle = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(oracle) == 12
    frames = read_bytes(data, selection=at_most(99))
    assert [frame.index for frame in frames] == list(range(12))
    for frame, rgb, original in zip(frames, oracle, colours, strict=True):
        assert np.abs(frame.pixels - luma(rgb)).max() <= 0.51
        assert frame.chroma is not None
        assert np.array_equal(frame.chroma, rgb.max(axis=2) - rgb.min(axis=2))
        assert psnr(frame.pixels, luma(original)) > 35


def test_one_frame_by_its_number() -> None:
    data = clip(20)
    whole = read_bytes(data, selection=at_most(20))
    for number in (0, 7, 19):
        (frame,) = read_bytes(data, frame=number)
        assert frame.index == number
        assert np.array_equal(frame.pixels, whole[number].pixels)
    for number in (-1, 20):
        with pytest.raises(
            UnreadableFile, match=rf"no frame {number} here; the file has 20 frames, numbers 0 to 19"
        ):
            read_bytes(data, frame=number)


@pytest.mark.parametrize("stated", [0, 7, 5000])
def test_wrong_frame_count_in_the_header_does_no_harm(stated: int) -> None:
    data = bytearray(clip(20))
    for marker, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(marker) + offset
        assert struct.unpack_from("<I", data, at) == (20,)
        struct.pack_into("<I", data, at, stated)
    assert [frame.index for frame in read_bytes(bytes(data), selection=at_most(4))] == [0, 6, 13, 19]


def test_cut_clip_gives_the_frames_before_the_cut_evenly() -> None:
    whole = clip(60)
    frames = read_bytes(whole[: len(whole) // 2], selection=at_most(4))
    assert 2 <= len(frames) <= 4
    assert frames[0].index == 0
    assert frames[-1].index < 59
    for frame in frames:
        assert float(frame.pixels.mean()) == pytest.approx(10 + 4 * frame.index, abs=1.9)


def damaged_behind(count: int, good: int) -> bytes:
    """A clip whose later packets are there and counted, but cannot be decoded."""
    data = bytearray(clip(count))
    for at in [found.start() for found in re.finditer(b"00dc", bytes(data))][good:count]:
        size = struct.unpack_from("<I", data, at + 4)[0]
        data[at + 8 : at + 8 + size] = bytes(size)
    return bytes(data)


def test_clip_with_damaged_second_half_is_sampled_from_the_first() -> None:
    data = damaged_behind(40, 20)
    frames = read_bytes(data, selection=at_most(4))
    assert len(frames) == 4
    assert 15 <= frames[-1].index < 20
    assert {int(gap) for gap in np.diff([frame.index for frame in frames])} <= {5, 6, 7}
    (only,) = read_bytes(damaged_behind(40, 10), selection=at_most(1))  # its middle is behind the damage
    assert only.index < 10
    with pytest.raises(UnreadableFile, match=r"no frame 30 here; the file has \d+ frames"):
        read_bytes(data, frame=30)


def test_clip_format_without_signature_is_known_by_its_name() -> None:
    data = clip(10, "mpeg2video", "mpegts")
    assert len(read_bytes(data, "x.mpeg", at_most(3))) == 3
    with pytest.raises(UnreadableFile, match="no known image, clip or DICOM format"):
        read_bytes(data, "x")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (clip(5, form="mp4")[:400], "damaged clip: the container holds no video stream"),
        (clip(5)[:300], "damaged"),
        (b"\x1aE\xdf\xa3" + bytes(500), "damaged or unsupported clip"),
    ],
)
def test_cut_clips_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read_bytes(data)


@pytest.mark.parametrize(
    "list_file", ["ffconcat version 1.0\nfile '{}'\n#\x01\x02", "#EXTM3U\n#EXTINF:1,\x01\n{}\n"]
)
def test_a_play_list_never_opens_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_file: str
) -> None:
    (tmp_path / "secret.avi").write_bytes(clip(5))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnreadableFile, match="damaged or unsupported clip"):
        read_bytes(list_file.format("secret.avi").encode(), "scan.mpeg")


def test_every_clip_of_the_corpus(corpus: Path) -> None:
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        clips = {row["path"]: row for row in csv.DictReader(stream) if row["media"] == "video"}
    assert {Path(path).suffix.lower() for path in clips} == {".mp4", ".avi", ".mpeg"}
    for path, row in clips.items():
        frames = read_frames(corpus / path, at_most(3))
        count = int(row["frames"])
        assert [frame.index for frame in frames] == [0, round((count - 1) / 2), count - 1], path
        assert {frame.pixels.shape for frame in frames} == {(int(row["height"]), int(row["width"]))}
