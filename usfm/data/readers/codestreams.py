"""The size that a compressed frame itself states, before a codec allocates it.

A DICOM header can state a small image around a frame that states a huge one.
"""

import struct

from openjpeg.utils import get_parameters
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

__all__ = ["stated_size"]

HTJ2K = "1.2.840.10008.1.2.4.20"  # ...1, ...2, ...3
_NO_FRAME_HEADER = {0xC4, 0xC8, 0xCC}  # markers among C0..CF that are not a start of frame
_JPEG_LS_FRAME = 0xF7


def stated_size(frame: bytes, syntax: str) -> tuple[int, int] | None:
    """Width and height in px of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame.

    None for other syntaxes, and where the frame has no header that can be read: its decoder says what is wrong.
    """
    if syntax in JPEG2000TransferSyntaxes or syntax.startswith(HTJ2K):
        try:
            stated = get_parameters(frame)
        except (RuntimeError, ValueError):
            return None
        return int(stated["columns"]), int(stated["rows"])
    if syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        return _jpeg_size(frame)
    return None


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """From the start-of-frame segment, ITU-T T.81 B.2.2 and T.87 C.2.2; libjpeg's own reading decodes first."""
    at = frame.find(b"\xff\xd8") + 2
    while 2 <= at <= len(frame) - 9:
        marker = frame[at + 1]
        if frame[at] != 0xFF or marker == 0xFF:  # a fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER) or marker == _JPEG_LS_FRAME:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return width, height
        elif marker == 0xDA:  # the scan begins
            return None
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
