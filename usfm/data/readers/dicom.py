"""DICOM to grey frames: palettes, YBR, inverted and deep grey, pixel spacing from ultrasound regions."""

from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, iter_pixels

from usfm.data.readers.frames import Frame, check_size, evenly_spaced, to_eight_bits, to_grey
from usfm.errors import UnreadableFile

__all__ = ["dicom_frames"]

UNITS_CM = 3  # Physical Units X/Y Direction, DICOM PS3.3 C.8.5.5.1.15
SPACING_TOLERANCE = 0.01


def dicom_frames(data: bytes, max_frames: int) -> list[Frame]:
    """Decode at most `max_frames` frames, evenly spaced; only these are decompressed.

    Raises:
        UnreadableFile: no pixel data or a size that is refused. Decoders raise their own errors too.
    """
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    if "PixelData" not in dataset:
        what = dataset.get("Modality", "") or "no modality"
        raise UnreadableFile(f"DICOM without pixel data ({what}); only images can be read")
    check_size(int(dataset.Columns), int(dataset.Rows))
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1:
        raise UnreadableFile(f"DICOM that states {count} frames")
    indices = evenly_spaced(count, max_frames)
    arrays = list(iter_pixels(dataset, indices=indices))
    patient = str(dataset.get("PatientID") or "").strip()
    spacing = spacing_mm(dataset)
    return [Frame(grey, i, spacing, patient) for i, grey in zip(indices, _grey(dataset, arrays), strict=True)]


def spacing_mm(dataset: Any) -> float | None:
    """Pixel size in mm, None where it is not stated or where pixels are not square within 1 %.

    The largest ultrasound region that is calibrated in cm decides, then PixelSpacing. A file with several
    scales (two images of different depth) has no one spacing, so regions that differ give None.
    """
    found: list[tuple[float, float]] = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
        if units == {UNITS_CM}:
            delta = (abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10)
            found.append(delta)
    if not found and dataset.get("PixelSpacing"):
        found = [(float(dataset.PixelSpacing[1]), float(dataset.PixelSpacing[0]))]
    values = [value for pair in found for value in pair]
    if not values or min(values) <= 0 or max(values) > min(values) * (1 + SPACING_TOLERANCE):
        return None
    return values[0]


def _grey(dataset: Any, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[np.uint8]]:
    """Decoded frames, (H, W) or (H, W, 3) of any depth, as (H, W) uint8."""
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        return [to_grey(_palette(dataset, array)) for array in arrays]
    if arrays[0].ndim == 3:  # pydicom has already turned every YBR kind into RGB
        top = (1 << int(dataset.BitsStored)) - 1
        return [to_grey(a if a.dtype == np.uint8 else to_eight_bits(a, 0, top)) for a in arrays]
    if int(dataset.BitsStored) > 8 or arrays[0].dtype != np.uint8:
        deep = [apply_modality_lut(array, dataset) for array in arrays]
        if "WindowCenter" in dataset or "VOILUTSequence" in dataset:
            deep = [apply_voi_lut(array, dataset) for array in deep]
        # one scale for all frames of the file, or a clip would flicker
        low, high = float(min(a.min() for a in deep)), float(max(a.max() for a in deep))
        grey = [to_eight_bits(array, low, high) for array in deep]
    else:
        grey = [np.ascontiguousarray(array) for array in arrays]
    return [255 - array for array in grey] if photometric == "MONOCHROME1" else grey


def _palette(dataset: Any, array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """(H, W) palette numbers to (H, W, 3) uint8."""
    colour = apply_color_lut(array, dataset)[..., :3]
    if colour.dtype == np.uint8:
        return np.asarray(colour, np.uint8)
    # some writers state 16 bits but store 8-bit values
    return to_eight_bits(colour, 0, 65535 if colour.max() > 255 else 255)
