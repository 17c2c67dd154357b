"""Files to grey frames: stills, clips and DICOM, recognised by their bytes and never by their name.

Everything foreign is decoded behind one boundary (`read_bytes`): whatever a decoder raises becomes
`UnreadableFile` with a reason, because archives hold every kind of damage and one file must not stop a job.
Sizes are checked in the header before pixels are decoded.
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from usfm.data.readers.dicom import dicom_frames
from usfm.data.readers.frames import Frame, FrameSelection, check_size, evenly_spaced, to_eight_bits, to_grey
from usfm.errors import UnreadableFile

__all__ = [
    "CLIP_SUFFIXES",
    "MAX_FILE_BYTES",
    "STILL_SUFFIXES",
    "Frame",
    "file_bytes",
    "read_bytes",
    "read_frames",
    "sniff",
]

STILL_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"}
CLIP_SUFFIXES = {".mp4", ".m4v", ".avi", ".mpeg", ".mpg", ".mov", ".mkv", ".wmv", ".webm"}
MAX_FILE_BYTES = 2 << 30
ANIMATED = {"GIF", "TIFF", "WEBP", "PNG"}  # a JPEG's further pictures (MPO) are previews, not frames

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "dicom"),
    (0, b"\x89PNG\r\n\x1a\n", "still"),
    (0, b"\xff\xd8\xff", "still"),
    (0, b"GIF8", "still"),
    (0, b"II*\x00", "still"),
    (0, b"MM\x00*", "still"),
    (8, b"WEBP", "still"),
    (0, b"\x00\x00\x00\x0cjP  ", "still"),
    (8, b"AVI ", "clip"),
    (4, b"ftyp", "clip"),
    (0, b"\x00\x00\x01\xba", "clip"),  # MPEG program stream
    (0, b"\x00\x00\x01\xb3", "clip"),  # MPEG video
    (0, b"\x1aE\xdf\xa3", "clip"),  # Matroska, WebM
    (0, b"0&\xb2u\x8ef\xcf\x11", "clip"),  # ASF, WMV
    (0, b"ImFusion", "imfusion"),
    (0, b"BM", "still"),
    (0, b"\x08\x00\x05\x00", "dicom"),  # a bare data set, without the preamble
    (0, b"\x08\x00\x08\x00", "dicom"),
    (0, b"\x02\x00\x00\x00", "dicom"),
)


def sniff(head: bytes) -> str:
    """What the first 132 bytes say a file is: "still", "clip", "dicom", "imfusion", or "" if nothing known."""
    return next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), "")


def read_frames(path: str | Path, selection: FrameSelection, frame: int | None = None) -> list[Frame]:
    """Read a file from disk; see `read_bytes`.

    Raises:
        UnreadableFile: missing, too large, empty, damaged, or of no kind that is known.
    """
    return read_bytes(file_bytes(path), Path(path).name, selection, frame)


def file_bytes(path: str | Path) -> bytes:
    """The bytes of a file, read once for hashing and decoding.

    Raises:
        UnreadableFile: it cannot be read, or is larger than `MAX_FILE_BYTES`.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise UnreadableFile(
                f"the file has {size / 2**30:.1f} GiB; at most {MAX_FILE_BYTES >> 30} GiB are read"
            )
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UnreadableFile("the file is missing") from None
    except OSError as error:
        raise UnreadableFile(f"the file cannot be read: {error.strerror}") from None


def read_bytes(
    data: bytes, name: str = "", selection: FrameSelection = FrameSelection(), frame: int | None = None
) -> list[Frame]:
    """Decode a still, a clip or a DICOM file to grey frames.

    Args:
        data: the whole file.
        name: its name, used only where the bytes say nothing (clip formats without a signature).
        selection: which frames of a clip are taken.
        frame: take this one frame instead.

    Returns:
        One frame or more, in the file's order.

    Raises:
        UnreadableFile: empty, damaged, too large, or of no kind that is known; says which.
    """
    if not data:
        raise UnreadableFile("the file is empty (0 bytes)")
    kind = sniff(data[:132]) or ("clip" if Path(name).suffix.lower() in CLIP_SUFFIXES else "")
    text = _looks_like_text(data[:512])
    if kind not in _DECODERS or text:
        raise UnreadableFile(_refusal(data, kind, text))
    try:
        frames = _DECODERS[kind](data, selection.max_frames)
    except UnreadableFile:
        raise
    except Exception as error:  # the boundary to foreign decoders, see the module's text
        message = " ".join(str(error).split())[:200]
        raise UnreadableFile(f"damaged or unsupported {kind}: {type(error).__name__}: {message}") from None
    if not frames:
        raise UnreadableFile(f"damaged {kind}: not one frame can be decoded")
    return frames


def still_frames(data: bytes, max_frames: int) -> list[Frame]:
    """Frames of a PNG, JPEG, BMP, TIFF, GIF, WebP or JPEG 2000 file; EXIF orientation is applied."""
    try:
        with Image.open(BytesIO(data)) as image:
            check_size(image.width, image.height)
            count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
            frames = []
            for index in evenly_spaced(count, max_frames):
                image.seek(index)
                frames.append(Frame(_pillow_grey(ImageOps.exif_transpose(image)), index))
            return frames
    except UnidentifiedImageError:
        raise UnreadableFile("damaged still: the header cannot be read") from None
    except (OSError, SyntaxError, EOFError) as error:  # what Pillow raises for cut files
        raise UnreadableFile(f"damaged still: {error}") from None


def clip_frames(data: bytes, max_frames: int) -> list[Frame]:
    """Frames of a video file, evenly spaced; headers that state a wrong frame count do no harm.

    The packets are counted first (no decoding), then frames are decoded up to the last one wanted. Frames
    behind damage are lost, those before it are kept.
    """
    with av.open(BytesIO(data)) as container:
        if not container.streams.video:
            raise UnreadableFile("damaged clip: the container holds no video stream")
        stream = container.streams.video[0]
        check_size(stream.width, stream.height)
        expected = sum(1 for packet in container.demux(stream) if packet.size)
    found, decoded = _decode(data, evenly_spaced(max(expected, 1), max_frames))
    if decoded > 0 and len(found) < min(decoded, max_frames):  # fewer frames than packets: spread them anew
        found, _ = _decode(data, evenly_spaced(decoded, max_frames))
    return found


def _decode(data: bytes, wanted: list[int]) -> tuple[list[Frame], int]:
    """The wanted frames of a clip as far as they can be decoded, and how many frames were seen."""
    found: list[Frame] = []
    count = 0
    targets = set(wanted)
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # one CPU per task; Ray runs the tasks side by side
        try:
            for frame in container.decode(stream):
                if count in targets:
                    found.append(Frame(to_grey(frame.to_ndarray(format="rgb24")), count))
                count += 1
                if count > wanted[-1]:
                    break
        except av.error.FFmpegError:
            if not found:
                raise
    return found, count


def _pillow_grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W) uint8. Transparent pixels are black; more than 8 bits are stretched from min to max."""
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith("I") or image.mode == "F":
        deep = np.asarray(image)
        return to_eight_bits(deep, float(deep.min()), float(deep.max()))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        grey = to_grey(rgba[..., :3])
        return np.rint(grey * (rgba[..., 3] / 255.0)).astype(np.uint8)
    return to_grey(np.asarray(image.convert("RGB")))


_DECODERS: dict[str, Callable[[bytes, int], list[Frame]]] = {
    "still": still_frames,
    "clip": clip_frames,
    "dicom": dicom_frames,
}


def _looks_like_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\r\n\x0c" or byte >= 160 for byte in head)


def _refusal(data: bytes, kind: str, text: bool) -> str:
    if kind == "imfusion":
        return "an ImFusion container (.imf) is not supported; export its frames as PNG or its clip as MP4"
    if text and b"git-lfs" in data[:64]:
        return "a Git LFS pointer, not the file itself; fetch the file"
    if text and b"<html" in data[:512].lower():
        return "a web page, not an image (a failed download?)"
    if text:
        return "text, not an image, clip or DICOM file"
    return f"no known image, clip or DICOM format (first bytes {data[:8].hex(' ')})"
