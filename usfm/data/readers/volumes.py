"""NIfTI, MetaImage (.mha, .mhd + raw file) and NRRD volumes and sequences, with SimpleITK.

A volume comes out as (T, H, W). The last two axes are SimpleITK's own order: rows run along the second axis of the
file, columns along its first. CAMUS writes x (lateral) as the first axis of its NIfTI files and depth as the
second, so its frames come out upright. Directions and flips in the header are not applied: they say how a volume
lies in the room, not which way up a picture is looked at.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from usfm.data.readers.frames import check_size, to_eight_bits, value_range
from usfm.data.readers.stack import About, Stack
from usfm.data.readers.volume_headers import (
    MAX_VOLUME_BYTES,
    Sidecar,
    gunzipped_nifti,
    self_contained,
    volume_form,
    whole_nifti,
)
from usfm.errors import UnreadableFile

__all__ = ["VOLUME_SUFFIXES", "open_volume", "read_volume"]

VOLUME_SUFFIXES = {".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"}
SPACING_TOLERANCE = 0.01
sitk: Any = SimpleITK  # it has stubs without types
_LIBRARY_READERS = {"nii": "NiftiImageIO", "mha": "MetaImageIO", "nrrd": "NrrdImageIO"}


def read_volume(
    data: bytes, name: str = "", sidecar: Sidecar | None = None
) -> tuple[npt.NDArray[Any], float | None]:
    """Decode a volume or a sequence with the values that its file holds.

    Args:
        data: the whole file; of a .mhd or .nhdr the header.
        name: its name, for messages; the bytes decide what it is.
        sidecar: fetches the data file that a header names; only plain names are asked for.

    Returns:
        (T, H, W), or (T, H, W, C) where pixels are colours, of the file's own type. T counts slices or time steps
        and is 1 for one picture; a file with both gives all slices of the first step, then those of the next.
        And the pixel size in mm: None where pixels are not square within 1 %, and where it is exactly 1 mm,
        which is what programs write that do not know it.

    Raises:
        UnreadableFile: damaged, too large, of no known kind, or its data file cannot be had.
    """
    form = "nii" if data[:2] == b"\x1f\x8b" else volume_form(data[:352])
    if not form:
        raise UnreadableFile(f"{name or 'the file'} is no NIfTI, MetaImage or NRRD volume")
    if form == "nii":
        data = gunzipped_nifti(data) if data[:2] == b"\x1f\x8b" else whole_nifti(data)
    else:
        data = self_contained(data, form, sidecar)
    with tempfile.TemporaryDirectory(prefix="usfm-volume-") as folder:
        path = Path(folder) / f"volume.{form}"
        path.write_bytes(data)
        try:
            return _read(path, _LIBRARY_READERS[form])
        except RuntimeError as error:  # its text is many lines long; the last says what is wrong
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UnreadableFile(f"damaged volume: {lines[-1].replace(str(path), 'the file')[:200]}") from None


def open_volume(data: bytes, name: str = "", sidecar: Sidecar | None = None) -> Stack:
    """Open a volume: its slices or time steps become frames of 8 bits; see `read_volume` for axes and errors.

    Samples of another type than uint8 are stretched from the smallest to the largest value of the whole file.
    """
    array, spacing = read_volume(data, name, sidecar)
    low, high = (0.0, 255.0) if array.dtype == np.uint8 else value_range(iter(array))

    def pictures(numbers: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        for number in numbers:
            picture = array[number]
            yield number, picture.copy() if picture.dtype == np.uint8 else to_eight_bits(picture, low, high)

    return Stack(array.shape[2], array.shape[1], len(array), pictures, About(spacing_mm=spacing))


def _read(path: Path, library_reader: str) -> tuple[npt.NDArray[Any], float | None]:
    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # they go to stderr and name files, not items
    reader = sitk.ImageFileReader()
    reader.SetImageIO(library_reader)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, kind, channels = reader.GetSize(), reader.GetPixelID(), reader.GetNumberOfComponents()
    check_size(size[0], size[1])
    if channels not in (1, 3, 4) or "complex" in sitk.GetPixelIDValueAsString(kind):
        raise UnreadableFile(f"a volume of {sitk.GetPixelIDValueAsString(kind)}; grey or colour is read")
    like = sitk.Image([1] * len(size), kind, channels if channels > 1 else 0)
    stated = math.prod(size) * channels * like.GetSizeOfPixelComponent()
    if stated > MAX_VOLUME_BYTES:
        raise UnreadableFile(
            f"the header states {stated / 2**20:.0f} MiB of samples; at most {MAX_VOLUME_BYTES >> 20} MiB are read"
        )
    image = reader.Execute()
    array = sitk.GetArrayFromImage(image).reshape(-1, size[1], size[0], channels)
    across, down = image.GetSpacing()[:2]
    square = max(across, down) <= min(across, down) * (1 + SPACING_TOLERANCE)
    spacing = float(across) if square and (across, down) != (1.0, 1.0) else None
    return (array[..., 0] if channels == 1 else array[..., :3]), spacing
