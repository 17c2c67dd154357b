"""Small files of every medium, made in memory, with pixels that a test knows."""

from collections.abc import Sequence
from io import BytesIO

import av
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian

__all__ = ["COLOUR", "DEEP", "RAMP", "clip", "dicom", "luma", "movie", "psnr", "still"]

Pixels = npt.NDArray[np.uint8]

RAMP: Pixels = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)
COLOUR: Pixels = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)
DEEP: npt.NDArray[np.uint16] = RAMP.astype(np.uint16) * 16 + 5


def luma(rgb: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    return np.asarray(rgb, np.float64) @ [0.299, 0.587, 0.114]


def psnr(pixels: npt.NDArray[np.generic], reference: npt.NDArray[np.generic]) -> float:
    error = np.mean((np.asarray(pixels, np.float64) - np.asarray(reference, np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else np.inf


def still(pixels: npt.NDArray[np.generic], form: str, **options: object) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def movie(
    frames: Sequence[Pixels], codec: str = "mpeg4", form: str = "avi", bit_rate: int = 8_000_000, **options: str
) -> bytes:
    """Frames (H, W, 3) RGB as a clip; H and W even."""
    stream = BytesIO()
    quiet = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    with av.open(stream, "w", format=form) as container:
        track = container.add_stream(codec, rate=25, options=quiet | options)
        track.height, track.width = frames[0].shape[:2]
        track.pix_fmt, track.bit_rate = "yuv420p", bit_rate
        for pixels in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()


def clip(count: int, codec: str = "mpeg4", form: str = "avi") -> bytes:
    """A clip whose frame i is evenly grey, with level 10 + 4 i."""
    return movie([np.full((48, 64, 3), 10 + 4 * number, np.uint8) for number in range(count)], codec, form)


def dicom(
    pixels: npt.NDArray[np.generic],
    photometric: str = "MONOCHROME2",
    stored: int = 8,
    syntax: str = ExplicitVRLittleEndian,
    coded: Sequence[bytes] = (),
    **tags: object,
) -> bytes:
    """A DICOM file of (H, W), (T, H, W) or (..., H, W, 3) pixels; `coded` frames take their place."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "2.25.7"
    data.Modality, data.PhotometricInterpretation = "US", photometric
    data.SamplesPerPixel = 3 if pixels.shape[-1] == 3 else 1
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = pixels.shape[-3:-1] if data.SamplesPerPixel == 3 else pixels.shape[-2:]
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored, data.HighBit, data.PixelRepresentation = stored, stored - 1, 0
    big = not data.file_meta.TransferSyntaxUID.is_little_endian
    data.PixelData = encapsulate(list(coded)) if coded else (pixels.byteswap() if big else pixels).tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    for name, value in tags.items():
        setattr(data, name, value)
    stream = BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()
