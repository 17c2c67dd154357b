"""Files to grey frames: stills, clips, DICOM and volumes, recognised by their bytes and never by their name.

Everything foreign is decoded behind one boundary (`read_bytes`): whatever a decoder raises becomes
`UnreadableFile` with a reason, because archives hold every kind of damage and one file must not stop a job.
Sizes are checked in the header before pixels are decoded.
"""

import errno
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from upath import UPath

from usfm.data.location import Location, is_local, locate
from usfm.data.patience import patiently
from usfm.data.readers.clips import CLIP_SUFFIXES, open_clip
from usfm.data.readers.dicom import open_dicom
from usfm.data.readers.frames import EVENLY, Frame, FrameSelection
from usfm.data.readers.kinds import HEAD_BYTES, refusal, sniff
from usfm.data.readers.stack import Stack, take
from usfm.data.readers.stills import STILL_SUFFIXES, open_still
from usfm.data.readers.volume_headers import Sidecar
from usfm.data.readers.volumes import VOLUME_SUFFIXES, open_volume
from usfm.errors import DataError, EnvironmentProblem, UnreadableFile

__all__ = [
    "CLIP_SUFFIXES",
    "HEAD_BYTES",
    "MAX_FILE_BYTES",
    "STILL_SUFFIXES",
    "VOLUME_SUFFIXES",
    "Frame",
    "Sidecar",
    "beside",
    "file_bytes",
    "open_bytes",
    "read_bytes",
    "read_frames",
    "sniff",
]

MAX_FILE_BYTES = 2 << 30


_OPENERS: dict[str, Callable[[bytes, str, Sidecar | None], Stack]] = {
    "still": lambda data, name, sidecar: open_still(data),
    "clip": lambda data, name, sidecar: open_clip(data),
    "dicom": lambda data, name, sidecar: open_dicom(data),
    "volume": open_volume,
}


ARCHIVES = ("zip", "tar", "libarchive")
"""File systems inside one file: what fails there is damage, and waiting does not mend it."""
PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOTCONN,
    errno.ENOSPC,
    errno.ENOMEM,
    errno.ETIMEDOUT,
}
"""Faults of the machine or its storage; a good file must not be refused for them."""


def read_frames(path: Location, selection: FrameSelection = EVENLY, frame: int | None = None) -> list[Frame]:
    """Read a file from a location; see `read_bytes`. A .mhd header finds its data file beside it.

    Raises:
        UnreadableFile: missing, too large, empty, damaged, or of no kind that is known.
    """
    return read_bytes(file_bytes(path), locate(path).name, selection, frame, beside(path))


def file_bytes(path: Location) -> bytes:
    """The bytes of a file, read once for hashing and decoding.

    Args:
        path: a local path or any location that `usfm.data.location.locate` knows.

    Raises:
        UnreadableFile: it is missing, no regular file, cannot be read, or is larger than `MAX_FILE_BYTES`.
        EnvironmentProblem: a storage does not answer: that says nothing of the file, so it must not be refused.
    """
    try:
        place = locate(path)
        alone = is_local(place) or place.protocol in ARCHIVES
        data = _read(place) if alone else patiently(lambda: _read(place), "a file of the archive")
    except EnvironmentProblem:
        raise
    except FileNotFoundError:
        raise UnreadableFile("the file is missing") from None
    except OSError as error:
        if not is_local(place) and isinstance(error, PermissionError) or error.errno in PASSING:
            raise EnvironmentProblem(
                f"the archive cannot be read: {error.strerror or error}; this says nothing of a single file. Check "
                "disk, network and credentials, and start again: what is done stays done"
            ) from None
        raise UnreadableFile(f"the file cannot be read: {error.strerror or error}") from None
    except UnreadableFile:
        raise
    except DataError as error:
        raise UnreadableFile(str(error)) from None
    except Exception as error:  # a boundary as well: every kind of store raises errors of its own
        raise UnreadableFile(f"the file cannot be read: {type(error).__name__}: {_line(error)}") from None
    return data


def beside(path: Location) -> Sidecar:
    """Reads files of the same folder by their name, for headers whose samples are in a file of their own."""
    return lambda name: file_bytes(locate(path).parent / name)


def read_bytes(
    data: bytes,
    name: str = "",
    selection: FrameSelection = EVENLY,
    frame: int | None = None,
    sidecar: Sidecar | None = None,
) -> list[Frame]:
    """Decode a still, a clip, a DICOM file or a volume to grey frames.

    Args:
        data: the whole file.
        name: its name, used only where the bytes say nothing (clip formats without a signature).
        selection: which frames of a clip, a multi-frame file or a volume are taken.
        frame: take exactly this one frame instead.
        sidecar: fetches a file that lies beside this one, by its name (.mhd headers).

    Returns:
        One frame or more, in the file's order.

    Raises:
        UnreadableFile: empty, damaged, too large, of no kind that is known, or without the frame asked for.
    """
    stack = open_bytes(data, name, sidecar)
    with _boundary(sniff(data[:HEAD_BYTES], name)):
        frames = take(stack, selection, frame)
    if not frames:
        raise UnreadableFile(f"damaged {sniff(data[:HEAD_BYTES], name)}: not one frame can be decoded")
    return frames


def open_bytes(data: bytes, name: str = "", sidecar: Sidecar | None = None) -> Stack:
    """Open a file without decoding pixels (a volume excepted): its size and number of frames are known then.

    Raises:
        UnreadableFile: see `read_bytes`.
    """
    if not data:
        raise UnreadableFile("the file is empty (0 bytes)")
    kind = sniff(data[:HEAD_BYTES], name)
    if reason := refusal(data[:HEAD_BYTES], kind):
        raise UnreadableFile(reason)
    with _boundary(kind):
        return _OPENERS[kind](data, name, sidecar)


@contextmanager
def _boundary(kind: str) -> Iterator[None]:
    """Around foreign decoders, see the module's text."""
    try:
        yield
    except UnreadableFile:
        raise
    except Exception as error:
        raise UnreadableFile(f"damaged or unsupported {kind}: {type(error).__name__}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read(place: UPath) -> bytes:
    size = _size(place)
    data = b""
    if size <= MAX_FILE_BYTES:
        with place.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)  # a file can grow, or state no size
        size = len(data)
    if size > MAX_FILE_BYTES:
        raise UnreadableFile(
            f"the file has {size / 2**30:.1f} GiB; at most {MAX_FILE_BYTES / 2**30:.3g} GiB are read"
        )
    return data


def _size(place: UPath) -> int:
    """Bytes of a regular file; 0 where a store does not say."""
    status = place.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableFile("a folder, not a file")
    if is_local(place) and not stat.S_ISREG(status.st_mode):
        raise UnreadableFile("no regular file (a pipe, a device or a socket)")
    return int(status.st_size or 0)
