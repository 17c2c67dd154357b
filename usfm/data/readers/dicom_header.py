"""What a DICOM header says of its frames: pixel spacing, B-mode region, scanner, patient, burned-in text."""

from typing import Any

from usfm.data.readers.frames import Box
from usfm.data.readers.stack import About

__all__ = ["about", "bmode_region", "device_name", "spacing_mm"]

UNITS_CM = 3  # Physical Units X/Y Direction, DICOM PS3.3 C.8.5.5.1.15
FORMAT_2D = 1  # Region Spatial Format, C.8.5.5.1.1
TYPE_TISSUE = 1  # Region Data Type, C.8.5.5.1.2
SPACING_TOLERANCE = 0.01
LEAST_REGION = 0.01
"""Smaller parts of the image are no B-mode region: icons, grey bars, zeros that were never filled in."""


def about(dataset: Any, width: int, height: int) -> About:
    """Facts of all frames of a file whose frames have `width` x `height` pixels."""
    return About(
        spacing_mm=spacing_mm(dataset),
        patient=str(dataset.get("PatientID") or "").strip(),
        device=device_name(dataset),
        region=bmode_region(dataset, width, height),
        burned_in=str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES",
    )


def spacing_mm(dataset: Any) -> float | None:
    """Pixel size in mm, None where it is not stated or where pixels are not square within 1 %.

    Ultrasound regions that are calibrated in cm decide, then PixelSpacing. A file with several scales (two images
    of different depth) has no one spacing, so regions that differ give None.
    """
    found: list[tuple[float, float]] = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
        if units == {UNITS_CM} and "PhysicalDeltaX" in region and "PhysicalDeltaY" in region:
            found.append((abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10))
    if not found and (stated := _pixel_spacing(dataset)):
        found = [(float(stated[1]), float(stated[0]))]
    values = [value for pair in found for value in pair]
    if not values or min(values) <= 0 or max(values) > min(values) * (1 + SPACING_TOLERANCE):
        return None
    return values[0]


def bmode_region(dataset: Any, width: int, height: int) -> Box | None:
    """Where the file says that its 2-D tissue image lies, clipped to the frame.

    Of several (two images side by side) the largest is taken, of equal ones the first: a crop holds one view.
    Regions that lie outside, are turned inside out or cover less than 1 % of the frame are not believed.
    """
    boxes = []
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        if (region.get("RegionSpatialFormat"), region.get("RegionDataType")) != (FORMAT_2D, TYPE_TISSUE):
            continue
        corners = [region.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if not all(isinstance(corner, int) for corner in corners):
            continue
        left, top = corners[:2]  # unsigned
        right, bottom = min(width - 1, corners[2]), min(height - 1, corners[3])  # both belong to the region
        if right >= left and bottom >= top:
            boxes.append(Box(top, left, bottom - top + 1, right - left + 1))
    largest = max(boxes, key=lambda box: box.height * box.width, default=None)
    if largest is None or largest.height * largest.width < LEAST_REGION * width * height:
        return None
    return largest


def device_name(dataset: Any) -> str:
    """Maker and model of the scanner in one line, "" if not stated; no serial number, no name of a place."""
    maker, model = (_one_line(dataset.get(name)) for name in ("Manufacturer", "ManufacturerModelName"))
    if model.lower().startswith(maker.lower()):
        return model
    return f"{maker} {model}".strip()


def _one_line(value: object) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in str(value or ""))
    return " ".join(text.split())


def _pixel_spacing(dataset: Any) -> Any:
    """PixelSpacing of the file, or of all frames of an enhanced one (Shared Functional Groups)."""
    if dataset.get("PixelSpacing"):
        return dataset.PixelSpacing
    for group in dataset.get("SharedFunctionalGroupsSequence") or ():
        for measures in group.get("PixelMeasuresSequence") or ():
            if measures.get("PixelSpacing"):
                return measures.PixelSpacing
    return None
