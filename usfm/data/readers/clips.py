"""Video files to RGB pictures, with PyAV (FFmpeg); headers that state a wrong frame count do no harm.

The packets are counted when a clip is opened (no decoding), then frames are decoded up to the last one wanted.
Frames behind damage are lost, those before it are kept.
"""

from collections.abc import Iterator, Sequence
from io import BytesIO

import av
import av.container
import numpy as np
import numpy.typing as npt

from usfm.data.readers.frames import MAX_FRAME_PIXELS, check_size
from usfm.data.readers.stack import NOTHING_STATED, About, Stack
from usfm.errors import UnreadableFile

__all__ = ["CLIP_SUFFIXES", "open_clip"]

CLIP_SUFFIXES = {".mp4", ".m4v", ".avi", ".mpeg", ".mpg", ".mov", ".mkv", ".wmv", ".webm"}

CONTAINERS = "avi,mov,mpeg,mpegvideo,mpegts,m4v,matroska,asf,flv,ogg,h264,hevc"
"""Formats that hold pictures. FFmpeg also reads play lists that name other files and addresses: never these."""


def open_clip(data: bytes, form: str | None = None, about: About = NOTHING_STATED) -> Stack:
    """Open a video file.

    Args:
        data: the whole file, or a bare elementary stream.
        form: FFmpeg's name of the container, for streams that do not show it; None = probe.
        about: what is known of all frames.

    Raises:
        UnreadableFile: no video in it, or a size that is refused. PyAV raises its own errors too.
    """
    with _container(data, form) as container:
        if not container.streams.video:
            raise UnreadableFile("damaged clip: the container holds no video stream")
        stream = container.streams.video[0]
        width, height = int(stream.width), int(stream.height)
        check_size(width, height)
        packets = sum(1 for packet in container.demux(stream) if packet.size)
    return Stack(
        width,
        height,
        max(packets, 1),
        lambda numbers: _pictures(data, form, numbers),
        about,
        decoded_for=lambda number: number + 1,
    )


def _container(data: bytes, form: str | None) -> av.container.InputContainer:
    limits = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    return av.open(BytesIO(data), format=form, options=limits)


def _pictures(data: bytes, form: str | None, numbers: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    wanted = iter(numbers)
    target = next(wanted, None)
    count = 0
    with _container(data, form) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # one CPU per task; Ray runs the tasks side by side
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # the size can change on the way
        try:
            for frame in container.decode(stream):
                if count == target:
                    yield count, frame.to_ndarray(format="rgb24")
                    target = next(wanted, None)
                count += 1
                if target is None:
                    return
        except av.error.FFmpegError:
            if not count:
                raise
