"""What a file is, by its first bytes; its name helps only where formats carry no signature."""

import re
import zlib
from pathlib import PurePosixPath

from usfm.data.readers.clips import CLIP_SUFFIXES
from usfm.data.readers.volume_headers import volume_form

__all__ = ["HEAD_BYTES", "refusal", "sniff"]

HEAD_BYTES = 1024
"""So many bytes of a file are enough for `sniff`."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "dicom"),
    (0, b"\x89PNG\r\n\x1a\n", "still"),
    (0, b"\xff\xd8\xff", "still"),
    (0, b"GIF8", "still"),
    (0, b"II*\x00", "still"),
    (0, b"MM\x00*", "still"),
    (8, b"WEBP", "still"),
    (0, b"\x00\x00\x00\x0cjP  ", "still"),
    (0, b"\xff\x4f\xff\x51", "still"),  # a bare JPEG 2000 codestream
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
    (0, b"\x08\x00\x16\x00", "dicom"),
    (0, b"\x08\x00\x00\x00\x04\x00\x00\x00", "dicom"),
    (0, b"\x02\x00\x00\x00", "dicom"),
)
_GZIP = b"\x1f\x8b\x08"


def sniff(head: bytes, name: str = "") -> str:
    """What the first `HEAD_BYTES` of a file say it is.

    Returns:
        "still", "clip", "dicom", "volume", "imfusion", or "" if nothing is known. 132 bytes are enough for all but
        volumes. A gzip file is a volume if a NIfTI header is in it, or if `head` is too short to see one and `name`
        says so.
    """
    if head.startswith(_GZIP):
        return "volume" if _holds_nifti(head, name) else ""
    kind = next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), "")
    if not kind and volume_form(head[:352]):
        return "volume"
    return kind or ("clip" if PurePosixPath(name).suffix.lower() in CLIP_SUFFIXES else "")


def refusal(head: bytes, kind: str) -> str:
    """Why a file is not read, by its first bytes and what `sniff` said; "" if nothing speaks against it."""
    if kind == "imfusion":
        return "an ImFusion container (.imf) is not supported; export its frames as PNG or its clip as MP4"
    text = kind != "volume" and all(32 <= byte < 127 or byte in b"\t\r\n\x0c" or byte >= 160 for byte in head[:512])
    if text and b"git-lfs" in head[:64]:
        return "a Git LFS pointer, not the file itself; fetch the file"
    if text and re.search(rb"<html|<!doctype html", head[:512], re.IGNORECASE):
        return "a web page, not an image (a failed download?)"
    if text:
        return "text, not an image, clip or DICOM file"
    return "" if kind else f"no known image, clip or DICOM format (first bytes {head[:8].hex(' ')})"


def _holds_nifti(head: bytes, name: str) -> bool:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inside = inflate.decompress(head, 352)
    except zlib.error:
        inside = b""
    if len(inside) < 348 and name.lower().endswith(".nii.gz"):
        return True
    return volume_form(inside) == "nii"
