"""DICOM to 8-bit pictures: every transfer syntax of ultrasound, palettes, YBR, inverted and deep grey.

pydicom with pylibjpeg decodes native, deflated, RLE, JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and
HTJ2K frames; the video syntaxes (MPEG-2, H.264, HEVC) hold a whole stream, which PyAV decodes.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_fragments, generate_frames, get_frame, parse_basic_offsets
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MPEGTransferSyntaxes,
)

from usfm.data.readers.clips import open_clip
from usfm.data.readers.codestreams import stated_size
from usfm.data.readers.dicom_header import about
from usfm.data.readers.frames import check_size, to_eight_bits, value_range
from usfm.data.readers.stack import Stack
from usfm.errors import UnreadableFile

__all__ = ["MAX_INFLATED_BYTES", "open_dicom"]

MAX_INFLATED_BYTES = 1 << 30
"""Of a deflated data set; a larger one is taken for a decompression bomb."""

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[Any]


def open_dicom(data: bytes) -> Stack:
    """Open a DICOM file; only the frames that are asked for are decompressed.

    Raises:
        UnreadableFile: no pixel data, or a size that is refused. Decoders raise their own errors too.
    """
    dataset = pydicom.dcmread(BytesIO(_inflated(data)), force=True)
    if "PixelData" not in dataset:
        what = dataset.get("Modality", "") or "no modality"
        raise UnreadableFile(f"DICOM without pixel data ({what}); only images can be read")
    width, height = int(dataset.Columns), int(dataset.Rows)
    check_size(width, height)
    syntax = _syntax(dataset)
    if syntax in MPEGTransferSyntaxes:
        return _video(dataset, syntax)
    samples, bits = int(dataset.get("SamplesPerPixel") or 1), int(dataset.BitsAllocated)
    if samples not in (1, 3) or bits > 32:
        raise UnreadableFile(
            f"DICOM with {samples} samples of {bits} bits per pixel; 1 or 3 of at most 32 are read"
        )
    if dataset.original_encoding[1] is False:
        _turn_palette(dataset)
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1:
        raise UnreadableFile(f"DICOM that states {count} frames")
    return Stack(
        width,
        height,
        count,
        lambda numbers: _pictures(dataset, syntax, count, numbers),
        about(dataset, width, height),
        decoded_for=(lambda number: count + 1) if _needs_common_scale(dataset) else lambda number: 1,
    )


def _inflated(data: bytes) -> bytes:
    """The file with a deflated data set made plain, since pydicom inflates without a limit."""
    stream = BytesIO(data)
    stream.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    head = data[: stream.tell()]
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflate.decompress(data[stream.tell() :], MAX_INFLATED_BYTES)
    if inflate.unconsumed_tail:
        raise UnreadableFile(f"a deflated DICOM of more than {MAX_INFLATED_BYTES >> 20} MiB; a decompression bomb?")
    if not inflate.eof:
        raise UnreadableFile("a deflated DICOM that is cut off")
    plain = ExplicitVRLittleEndian.encode().ljust(len(DeflatedExplicitVRLittleEndian), b"\0")
    return head.replace(DeflatedExplicitVRLittleEndian.encode(), plain) + body


def _syntax(dataset: Any) -> str:
    """The transfer syntax; a bare data set without file meta says by its encoding which one it has."""
    meta = dataset.file_meta
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
    return str(meta.TransferSyntaxUID)


def _video(dataset: Any, syntax: str) -> Stack:
    buffer = BytesIO(dataset.PixelData)
    parse_basic_offsets(buffer)
    stream = b"".join(generate_fragments(buffer))
    facts = about(dataset, int(dataset.Columns), int(dataset.Rows))
    number = int(syntax.split(".")[7])
    bare = "mpegvideo" if number <= 101 else "h264" if number <= 106 else "hevc"
    # a program or transport stream, an MP4 file, or the bare stream, which starts with a start code
    starts = (b"\x00\x00\x01", b"\x00\x00\x00\x01")
    is_bare = stream.startswith(starts) and not stream.startswith(b"\x00\x00\x01\xba")
    return open_clip(stream, bare if is_bare else None, facts)


def _pictures(dataset: Any, syntax: str, count: int, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
    convert = _converter(dataset, syntax, count)
    arrays = _arrays(dataset, syntax, count, numbers)
    for done, number in enumerate(numbers):
        array = next(arrays, None)
        if array is None:
            raise UnreadableFile(f"DICOM that states {count} frames and holds {done}")
        yield number, convert(array)


def _arrays(dataset: Any, syntax: str, count: int, numbers: Sequence[int]) -> Iterator[Array]:
    """Decoded frames, (H, W) or (H, W, 3) of any depth; pydicom turns every YBR kind into RGB."""
    everything = len(numbers) == count
    decoded = iter_pixels(dataset, indices=None if everything else list(numbers))
    if not UID(syntax).is_encapsulated:
        yield from decoded
        return
    offsets = None
    if "ExtendedOffsetTable" in dataset:
        offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
    how: dict[str, Any] = {"number_of_frames": count, "extended_offsets": offsets}
    data = dataset.PixelData
    encoded = generate_frames(data, **how) if everything else (get_frame(data, n, **how) for n in numbers)
    for frame in encoded:  # codecs allocate what the frame states, not what the data set states
        if size := stated_size(frame, syntax):
            check_size(*size)
        yield from islice(decoded, 1)


def _converter(dataset: Any, syntax: str, count: int) -> Callable[[Array], Pixels]:
    """How a decoded frame becomes (H, W) or (H, W, 3) uint8."""
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    top = (1 << int(dataset.BitsStored)) - 1
    if photometric == "PALETTE COLOR":
        return _palette(dataset)
    if int(dataset.get("SamplesPerPixel") or 1) == 3:
        return lambda array: np.asarray(array) if array.dtype == np.uint8 else to_eight_bits(array, 0, top)
    if _is_deep(dataset):
        show = _window(dataset)
        if _needs_common_scale(dataset):  # one scale for all frames of the file, or a clip would flicker
            low, high = value_range(show(array) for array in _arrays(dataset, syntax, count, range(count)))
        else:
            low, high = _window_output(dataset)

        def grey(array: Array) -> Pixels:
            return to_eight_bits(show(array), low, high)
    else:

        def grey(array: Array) -> Pixels:
            return array if array.dtype == np.uint8 and top == 255 else to_eight_bits(array, 0, top)

    return (lambda array: 255 - grey(array)) if photometric == "MONOCHROME1" else grey


def _is_deep(dataset: Any) -> bool:
    return int(dataset.BitsStored) > 8 or int(dataset.get("PixelRepresentation") or 0) == 1


def _has_window(dataset: Any) -> bool:
    stated = [dataset.get("WindowCenter"), dataset.get("WindowWidth")]
    return bool(dataset.get("VOILUTSequence")) or None not in stated


def _needs_common_scale(dataset: Any) -> bool:
    grey = str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    return grey and _is_deep(dataset) and not _has_window(dataset)


def _window(dataset: Any) -> Callable[[Array], Array]:
    """Stored values to displayed values: modality LUT or rescale, then VOI LUT or window."""

    def show(array: Array) -> Array:
        values: Array = apply_modality_lut(array, dataset)
        if dataset.get("VOILUTSequence") and values.dtype.kind == "f":
            values = np.rint(values).astype(np.int32)  # the table is addressed by whole numbers
        return np.asarray(apply_voi_lut(values, dataset)) if _has_window(dataset) else values

    return show


def _window_output(dataset: Any) -> tuple[float, float]:
    """The values that a window or a VOI table gives for black and for white."""
    if dataset.get("VOILUTSequence"):
        return 0.0, float((1 << int(dataset.VOILUTSequence[0].LUTDescriptor[2])) - 1)
    center, width = (float(np.ravel(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    far = np.array([[center - 100 * width, center + 100 * width]])  # beyond the window, and no overflow
    black, white = np.ravel(apply_voi_lut(far, dataset))
    return float(black), float(white)


def _turn_palette(dataset: Any) -> None:
    """Pydicom takes the words of a palette for little endian, also in a big-endian file."""
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTableData"
        if name in dataset:
            dataset[name].value = np.frombuffer(dataset[name].value, ">u2").astype("<u2").tobytes()


def _palette(dataset: Any) -> Callable[[Array], Pixels]:
    """(H, W) palette numbers to (H, W, 3) uint8."""
    entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    table = apply_color_lut(np.arange(first, first + (entries or 65536), dtype=np.int32), dataset)
    # some writers state 16 bits but store 8-bit values
    top = 65535 if table.dtype != np.uint8 and table.max() > 255 else 255

    def colours(array: Array) -> Pixels:
        colour = apply_color_lut(array, dataset)[..., :3]
        return np.asarray(colour) if colour.dtype == np.uint8 else to_eight_bits(colour, 0, top)

    return colours
