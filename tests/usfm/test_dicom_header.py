from pathlib import Path

import pytest
from media_factory import RAMP, dicom
from pydicom.dataset import Dataset

from usfm.data.readers.decode import read_bytes, read_frames
from usfm.data.readers.frames import Box

HEIGHT, WIDTH = RAMP.shape


def scale(units: int, delta_cm: float, ratio: float = 1.0) -> Dataset:
    data = Dataset()
    data.PhysicalUnitsXDirection = data.PhysicalUnitsYDirection = units
    data.PhysicalDeltaX, data.PhysicalDeltaY = delta_cm, delta_cm * ratio
    return data


def place(left: int, top: int, right: int, bottom: int, form: int = 1, kind: int = 1) -> Dataset:
    data = Dataset()
    data.RegionSpatialFormat, data.RegionDataType = form, kind
    data.RegionLocationMinX0, data.RegionLocationMinY0 = left, top
    data.RegionLocationMaxX1, data.RegionLocationMaxY1 = right, bottom
    return data


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.4, 0.4]}, 0.4),
        ({"PixelSpacing": [0.4, 0.5]}, None),
        ({"PixelSpacing": [0, 0]}, None),
        ({"SequenceOfUltrasoundRegions": [scale(3, 0.05)], "PixelSpacing": [9, 9]}, 0.5),
        ({"SequenceOfUltrasoundRegions": [scale(4, 0.05)]}, None),  # seconds
        ({"SequenceOfUltrasoundRegions": [scale(3, 0.05, 2.0)]}, None),
        ({"SequenceOfUltrasoundRegions": [scale(3, 0.05), scale(3, 0.05), scale(4, 1.0)]}, 0.5),
        ({"SequenceOfUltrasoundRegions": [scale(3, 0.05), scale(3, 0.08)]}, None),
        ({"SequenceOfUltrasoundRegions": [place(0, 0, 9, 9)], "PixelSpacing": [0.2, 0.2]}, 0.2),
    ],
)
def test_spacing(tags: dict[str, object], spacing: float | None) -> None:
    assert read_bytes(dicom(RAMP, **tags))[0].spacing_mm == (None if spacing is None else pytest.approx(spacing))


def test_spacing_of_an_enhanced_file() -> None:
    measures, group = Dataset(), Dataset()
    measures.PixelSpacing = [0.25, 0.25]
    group.PixelMeasuresSequence = [measures]
    assert read_bytes(dicom(RAMP, SharedFunctionalGroupsSequence=[group]))[0].spacing_mm == 0.25


@pytest.mark.parametrize(
    ("regions", "box"),
    [
        ([], None),
        ([place(10, 5, 49, 34)], Box(5, 10, 30, 40)),  # the last pixel belongs to it
        ([place(0, 0, WIDTH - 1, HEIGHT - 1)], Box(0, 0, HEIGHT, WIDTH)),
        ([place(5, 20, 4000, 4000)], Box(20, 5, HEIGHT - 20, WIDTH - 5)),  # clipped
        ([place(0, 0, 20, 39), place(21, 0, 59, 39)], Box(0, 21, 40, 39)),  # the larger of two
        ([place(0, 0, 29, 39), place(30, 0, 59, 39)], Box(0, 0, 40, 30)),  # the first of two equals
        ([place(0, 0, 59, 39, form=2), place(5, 5, 30, 30)], Box(5, 5, 26, 26)),  # 2 = M-mode
        ([place(0, 0, 59, 39, kind=2)], None),  # 2 = colour flow
        ([place(0, 0, 59, 39, form=3, kind=3)], None),  # a spectrum
        ([place(100, 100, 200, 200)], None),  # outside
        ([place(40, 30, 20, 10)], None),  # inside out
        ([place(0, 0, 0, 0)], None),  # never filled in
        ([place(0, 0, 3, 3)], None),  # an icon
        ([place(0, 0, 0, 0), place(10, 10, 39, 29)], Box(10, 10, 20, 30)),
        ([Dataset()], None),
    ],
)
def test_b_mode_region(regions: list[Dataset], box: Box | None) -> None:
    frame = read_bytes(dicom(RAMP, SequenceOfUltrasoundRegions=regions))[0]
    assert frame.region == box
    if box is not None:
        cut = RAMP[box.top : box.top + box.height, box.left : box.left + box.width]
        assert cut.shape == (box.height, box.width)


@pytest.mark.parametrize(
    ("maker", "model", "device"),
    [
        (None, None, ""),
        ("ACME  Medical\n", "  Scan 1 ", "ACME Medical Scan 1"),
        ("ACME", None, "ACME"),
        (None, "Scan 1", "Scan 1"),
        ("ACME", "Acme Scan 1", "Acme Scan 1"),
        ("", "", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_device(maker: str | None, model: str | None, device: str) -> None:
    tags = {"Manufacturer": maker, "ManufacturerModelName": model, "DeviceSerialNumber": "4711"}
    stated = {name: value for name, value in tags.items() if value is not None}
    assert read_bytes(dicom(RAMP, **stated))[0].device == device


@pytest.mark.parametrize(("text", "burned_in"), [("YES", True), ("NO", False), ("", False), (None, False)])
def test_burned_in(text: str | None, burned_in: bool) -> None:
    tags = {} if text is None else {"BurnedInAnnotation": text}
    assert read_bytes(dicom(RAMP, **tags))[0].burned_in is burned_in


@pytest.mark.parametrize(
    ("name", "spacing", "region", "device"),
    [
        ("color3d_jpeg_baseline.dcm", 0.51050, Box(31, 84, 384, 512), "SonoSite, Inc. Turbo"),
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", 0.25477, Box(38, 14, 721, 997), "Philips Medical Systems EPIQ 7C"),
        ("color-pl.dcm", None, None, "Acme Products"),
        ("examples_jpeg2k.dcm", None, None, "G.E. Medical Systems LOGIQ 700"),
        ("gdcm-US-ALOKA-16.dcm", 0.38265, Box(24, 32, 392, 304), "ALOKA CO., LTD. SSD-4000"),
    ],
)
def test_headers_of_real_files(
    corpus: Path, name: str, spacing: float | None, region: Box | None, device: str
) -> None:
    frame = read_frames(corpus / "pydicom_us" / name, frame=0)[0]
    assert frame.spacing_mm == (None if spacing is None else pytest.approx(spacing, abs=1e-4))
    assert frame.region == region
    assert frame.device == device
    assert not frame.burned_in
