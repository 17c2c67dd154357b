"""Headers of volume files, checked before a library opens them: kind, stated size, where the samples are.

Text headers (MetaImage, NRRD) may name any file of the machine as their data. They are written anew here, with the
samples behind them, so that the library that decodes them never opens a name out of the file.
"""

import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from usfm.errors import UnreadableFile

__all__ = ["MAX_VOLUME_BYTES", "Sidecar", "gunzipped_nifti", "self_contained", "volume_form", "whole_nifti"]

MAX_VOLUME_BYTES = 512 << 20
"""Of the decoded samples; a larger volume is refused from its header."""

Sidecar = Callable[[str], bytes]
"""Reads a file that lies beside a header, by its name; raises `UnreadableFile` if it cannot."""

NIFTI_HEAD_BYTES = 544  # the longest header, that of NIfTI-2
MAX_TEXT_HEADER = 1 << 16


def volume_form(head: bytes) -> str:
    """The kind by the first 352 bytes of a file: "nii", "mha" (also .mhd), "nrrd", or "" if it is none of them."""
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "nii"
    if head[:4] == b"NRRD":
        return "nrrd"
    return "mha" if re.search(rb"^[ \t]*(ObjectType|NDims)[ \t]*[=:]", head, re.MULTILINE) else ""


def gunzipped_nifti(data: bytes) -> bytes:
    """The NIfTI file in a gzip file, inflated no further than its header states.

    Raises:
        UnreadableFile: no NIfTI inside, more than `MAX_VOLUME_BYTES`, or cut off.
    """
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        head = inflate.decompress(data, NIFTI_HEAD_BYTES)
        if volume_form(head) != "nii":
            raise UnreadableFile("a gzip file that holds no NIfTI volume; unpack it")
        wanted = _nifti_bytes(head)
        body = inflate.decompress(inflate.unconsumed_tail, max(1, wanted - len(head)))
        more = inflate.decompress(inflate.unconsumed_tail, 1)  # on to the checksum, if nothing else follows
    except zlib.error as error:
        raise UnreadableFile(f"damaged volume: {error}") from None
    if not (more or inflate.eof):
        raise UnreadableFile(f"damaged volume: the gzip file is cut off after {len(head + body)} unpacked bytes")
    return whole_nifti(head + body)


def whole_nifti(data: bytes) -> bytes:
    """The same bytes, if they are as many as the NIfTI header states.

    Raises:
        UnreadableFile: cut off, too large, or a pair of header and image file.
    """
    stated = _nifti_bytes(data[:NIFTI_HEAD_BYTES])
    if len(data) < stated:
        raise UnreadableFile(f"damaged volume: the header states {stated} bytes, the file holds {len(data)}")
    return data


def self_contained(data: bytes, form: str, sidecar: Sidecar | None) -> bytes:
    """A MetaImage or NRRD file with its samples behind its header, wherever they were.

    Raises:
        UnreadableFile: the header has no end, or names data that may not or cannot be read.
    """
    return _meta_image(data, sidecar) if form == "mha" else _nrrd(data, sidecar)


def _meta_image(data: bytes, sidecar: Sidecar | None) -> bytes:
    fields: dict[str, str] = {}
    end = 0
    for line, behind in _lines(data):
        if found := re.fullmatch(r"(\w+)\s*[=:]\s*(.*)", line):
            fields[found[1]] = found[2]
        if "ElementDataFile" in fields:
            end = behind
            break
    if not end:
        raise UnreadableFile("damaged volume: its header names no ElementDataFile")
    named = fields.pop("ElementDataFile")
    samples = data[end:] if named.upper() == "LOCAL" else _beside(named, sidecar)
    if fields.get("HeaderSize", "").isdecimal():  # counted from the start of the named file; -1 from its end
        skip = int(fields.pop("HeaderSize"))
        samples = samples if named.upper() == "LOCAL" else samples[skip:]
    fields.pop("CompressedDataSize", None)
    if fields.pop("CompressedData", "").upper() in ("TRUE", "T", "1"):
        sizes = [int(text) for text in fields.get("DimSize", "").split() if text.isdecimal()]
        channels = fields.get("ElementNumberOfChannels", "1")
        most = 8 * math.prod(sizes) * int(channels if channels.isdecimal() else 1)  # no sample has more bytes
        samples = _inflated(samples, min(most, MAX_VOLUME_BYTES))
    fields["ElementDataFile"] = "LOCAL"
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("latin-1") + samples


def _inflated(packed: bytes, most: int) -> bytes:
    """Unpacked here, since the library goes on with what it has where packed samples are cut off."""
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        samples = inflate.decompress(packed, max(1, most))
    except zlib.error as error:
        raise UnreadableFile(f"damaged volume: {error}") from None
    if not (inflate.eof or inflate.unconsumed_tail):
        raise UnreadableFile("damaged volume: its packed samples are cut off")
    return samples


def _nrrd(data: bytes, sidecar: Sidecar | None) -> bytes:
    kept: list[str] = []
    named, encoding, skip, end = "", "", "", len(data)
    for line, behind in _lines(data):
        field, _, value = (part.strip() for part in line.partition(":"))
        plain = field.lower().replace(" ", "")
        if not line:
            end = behind
            break
        if plain == "datafile":
            named = value
        elif not value.startswith("=") and not line.startswith("#"):  # neither free key/value pairs nor comments
            kept.append(line)
        encoding = value.lower() if plain == "encoding" else encoding
        skip = value if plain == "byteskip" else skip
    if skip.startswith("-") and encoding != "raw":  # would be inflated whole to find its end
        raise UnreadableFile("an NRRD file with a negative byte skip into packed data; write it anew without")
    samples = _beside(named, sidecar) if named else data[end:]
    return "\n".join([*kept, "", ""]).encode("latin-1") + samples


def _lines(data: bytes) -> Iterator[tuple[str, int]]:
    """Lines of a text header, and where the next one begins."""
    at = 0
    while at < min(len(data), MAX_TEXT_HEADER):
        end = data.find(b"\n", at, MAX_TEXT_HEADER) + 1 or min(len(data), MAX_TEXT_HEADER)
        yield data[at:end].decode("latin-1").strip(), end
        at = end


def _beside(name: str, sidecar: Sidecar | None) -> bytes:
    if not name or name.startswith(".") or name.upper().startswith("LIST") or re.search(r"[/\\:%\0]", name):
        raise UnreadableFile(
            f"the volume's header names {name!r} as its data; only one file of the same folder, by its plain name, "
            "is read"
        )
    if sidecar is None:
        raise UnreadableFile(f"the volume's samples are in another file, {name!r}; give both, or one .mha file")
    return sidecar(name)


def _nifti_bytes(head: bytes) -> int:
    """How long a NIfTI file must be at least, by its header."""
    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        raise UnreadableFile("a NIfTI pair (.hdr and .img); write it as one .nii file")
    second = head[4:8] == b"n+2\0"
    if len(head) < (NIFTI_HEAD_BYTES if second else 352):
        raise UnreadableFile(f"damaged volume: {len(head)} bytes are no whole NIfTI header")
    order = "<" if struct.unpack_from("<i", head)[0] in (348, 540) else ">"
    if second:
        dims = struct.unpack_from(order + "8q", head, 16)
        (bits,) = struct.unpack_from(order + "h", head, 14)
        (offset,) = struct.unpack_from(order + "q", head, 168)
    else:
        dims = struct.unpack_from(order + "8h", head, 40)
        (bits,) = struct.unpack_from(order + "h", head, 72)
        (offset,) = struct.unpack_from(order + "f", head, 108)
    if not (1 <= dims[0] <= 7 and min(dims[1 : dims[0] + 1]) >= 0 and 0 < bits <= 256 and 0 <= offset < 1 << 30):
        raise UnreadableFile("damaged volume: the NIfTI header states impossible sizes")
    samples = math.prod(max(1, size) for size in dims[1 : dims[0] + 1]) * bits // 8
    if samples + offset > MAX_VOLUME_BYTES:
        raise UnreadableFile(
            f"the header states {samples / 2**20:.0f} MiB of samples; at most {MAX_VOLUME_BYTES >> 20} MiB are read"
        )
    return int(samples) + int(offset)
