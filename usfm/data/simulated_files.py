"""Simulated images as files: stills, masks, clips and DICOM whose bytes depend on their content alone."""

import hashlib
from collections.abc import Sequence
from io import BytesIO

import av
import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage

__all__ = ["CLIP_CODECS", "clip_bytes", "dicom_bytes", "mask_bytes", "still_bytes"]

CLIP_CODECS = {".avi": "mpeg4", ".mp4": "mpeg4", ".mpeg": "mpeg1video"}
Pixels = npt.NDArray[np.uint8]


def still_bytes(pixels: npt.NDArray[np.uint8], suffix: str) -> bytes:
    """(H, W) or (H, W, 3) as PNG, JPEG, GIF or BMP."""
    stream = BytesIO()
    options = {"quality": 92} if suffix == ".jpg" else {}
    Image.fromarray(pixels).save(
        stream, {".jpg": "JPEG", ".gif": "GIF", ".bmp": "BMP"}.get(suffix, "PNG"), **options
    )
    return stream.getvalue()


def mask_bytes(mask: Pixels, kind: str) -> bytes:
    """The mask as the sources that use this kind store it."""
    stream = BytesIO()
    if kind.startswith("index"):
        image = Image.fromarray(mask).convert("P")
        image.putdata(mask.ravel().tolist())
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(stream, "PNG")
    elif kind.startswith("RGB"):
        colours = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]], np.uint8)
        Image.fromarray(colours[mask]).save(stream, "PNG")
    else:
        Image.fromarray(mask * np.uint8(255)).save(stream, "JPEG" if kind.startswith("jpg") else "PNG")
    return stream.getvalue()


def clip_bytes(frames: Sequence[Pixels], suffix: str) -> bytes:
    """Grey frames as a clip of 25 frames per second; `suffix` is a key of `CLIP_CODECS`."""
    stream = BytesIO()
    options = {"fflags": "+bitexact"}  # no date, no encoder version
    form = {".avi": "avi", ".mp4": "mp4", ".mpeg": "mpeg"}[suffix]
    with av.open(stream, "w", format=form, options=options) as container:
        track = container.add_stream(CLIP_CODECS[suffix], rate=25, options={"flags": "+bitexact", "qscale": "3"})
        track.height, track.width = frames[0].shape
        track.pix_fmt = "yuv420p"
        track.bit_rate = 4_000_000
        track.codec_context.thread_count = 1
        for pixels in frames:
            picture = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, axis=2), format="rgb24")
            container.mux(track.encode(picture))
        container.mux(track.encode())
    return stream.getvalue()


def dicom_bytes(frames: Sequence[Pixels], name: str, patient: str, spacing_mm: float) -> bytes:
    """Uncompressed DICOM: several frames in grey, or one in RGB, calibrated by an ultrasound region.

    Args:
        frames: each (H, W).
        name: gives the file its UID.
        patient: PatientID.
        spacing_mm: pixel size.
    """
    grey = len(frames) > 1
    storage = UltrasoundMultiFrameImageStorage if grey else UltrasoundImageStorage
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=12).digest(), "big")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = storage, f"2.25.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = "2.25.1"  # pydicom would write its version
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = storage, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientID, data.PatientName = "US", patient, "Simulated^Nobody"
    data.Rows, data.Columns = frames[0].shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # cm
    region.PhysicalDeltaX = region.PhysicalDeltaY = spacing_mm / 10
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = data.Columns - 1, data.Rows - 1
    data.SequenceOfUltrasoundRegions = [region]
    if grey:
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.NumberOfFrames = len(frames)
        data.PixelData = np.stack(frames).tobytes()
    else:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.PixelData = np.repeat(frames[0][..., None], 3, axis=2).tobytes()
    stream = BytesIO()
    pydicom.dcmwrite(stream, data, enforce_file_format=True)
    return stream.getvalue()
