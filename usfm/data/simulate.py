"""A simulated archive on disk: every medium that ingest reads, with masks, labels, patients and a manifest.

It stands in where no real archive is at hand. The manifest has the columns and the wording of a real one,
and the counts by organ are as uneven as real ones. Equal arguments write equal bytes.
"""

import csv
import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.data import get_testdata_file

from usfm.data.b_mode import Phantom, b_mode
from usfm.data.phantoms import ORGANS
from usfm.data.simulated_files import CLIP_CODECS, clip_bytes, dicom_bytes, mask_bytes, still_bytes
from usfm.data.sources.manifest import MANIFEST_NAME
from usfm.errors import ConfigError
from usfm.rng import generator

__all__ = ["COUNTS", "packaged_dicom", "write_archive"]

COUNTS = {
    "fetal_head": 120,
    "nerve": 72,
    "heart": 60,
    "lung": 48,
    "muscle": 30,
    "breast": 24,
    "liver": 16,
    "carotid": 12,
    "kidney": 6,
}
LABELS: Mapping[str, Sequence[str]] = {
    "heart": ("2CH ED", "2CH ES", "4CH ED", "4CH ES"),
    "lung": ("regular", "covid", "bacterial pneumonia", "viral pneumonia"),
    "breast": ("benign", "malignant"),
    "kidney": ("", "stone"),
}
PER_PATIENT = {"heart": 4, "lung": 1, "breast": 1}
MASK_KINDS = {
    "fetal_head": "binary png 0/255 head ellipse (filled)",
    "heart": "jpg, threshold >127: union of LV+myocardium+LA",
    "breast": "RGB png: green benign, red malignant",
    "nerve": "index png: 0 bg, 1 nerve, 2 vessel",
    "carotid": "binary png lumen/artery",
}
SUFFIXES: Mapping[str, Sequence[str]] = {
    "heart": (".jpg",),
    "lung": (".png", ".avi", ".mp4", ".mpeg"),
    "muscle": (".png", ".bmp"),
    "carotid": (".gif",),
    "liver": (".dcm",),
    "kidney": (".dcm",),
}
CLIP_FRAMES = 10
COLUMNS = (
    *("path", "organ", "label", "mask_path", "mask_kind", "group", "media", "width", "height", "frames"),
    *("spacing_mm", "source", "licence", "origin", "sha256"),
)
PACKAGED = {  # ultrasound files inside the packages pydicom and pydicom-data, and what they show
    "color3d_jpeg_baseline.dcm": ("heart", "echo apical"),
    "JPGLosslessP14SV1_1s_1f_8b.dcm": ("heart", "echo PLAX"),
    "color-pl.dcm": ("heart", "colour Doppler echo"),
    "examples_jpeg2k.dcm": ("lymph_node", "power Doppler"),
    "gdcm-US-ALOKA-16.dcm": ("abdomen", "dual B-mode"),
}
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Image:
    """One simulated item before it is written."""

    organ: str
    number: int
    label: str
    patient: str
    spacing_mm: float
    frames: list[Pixels]
    phantom: Phantom

    @property
    def name(self) -> str:
        return f"{self.organ}_{self.number:04d}"


def write_archive(
    root: str | Path,
    counts: Mapping[str, int] | None = None,
    scale: float = 1.0,
    seed: int = 0,
    packaged: bool = True,
) -> Path:
    """Write a simulated archive.

    Args:
        root: folder to write to; made if it is missing.
        counts: items by organ, None = `COUNTS`.
        scale: factor on the counts; an organ that is asked for has at least one item.
        seed: another seed is another archive.
        packaged: add the real ultrasound DICOM files of the packages pydicom and pydicom-data.

    Returns:
        The path of the manifest, which is written last.

    Raises:
        ConfigError: an organ without a phantom, or a scale that is not above 0.
    """
    counts = COUNTS if counts is None else counts
    unknown = sorted(set(counts) - set(ORGANS))
    if unknown or scale <= 0:
        raise ConfigError(
            f"cannot simulate {unknown or f'scale {scale}'}; known organs: {', '.join(ORGANS)}; scale > 0"
        )
    folder = Path(root)
    numbers = {organ: range(max(1, round(count * scale)) if count else 0) for organ, count in counts.items()}
    lines = [_write_item(folder, _simulate(organ, number, seed)) for organ in numbers for number in numbers[organ]]
    lines += packaged_dicom(folder) if packaged else []
    partial = folder / (MANIFEST_NAME + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    os.replace(partial, folder / MANIFEST_NAME)
    return folder / MANIFEST_NAME


def packaged_dicom(root: Path) -> list[dict[str, Any]]:
    """Copy the real ultrasound DICOM files of installed packages into an archive; never asks a network.

    Returns:
        Their manifest lines; files that an installation lacks are left out.
    """
    lines = []
    for name, (organ, label) in PACKAGED.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about test files that are not installed
            found = get_testdata_file(name, download=False)
        if not isinstance(found, str):
            continue
        path = f"pydicom/{name}"
        digest = _write(root / path, Path(found).read_bytes())
        line = {"path": path, "organ": organ, "label": label, "group": name, "media": "dicom", "sha256": digest}
        lines.append(
            {**line, "source": "pydicom", "licence": "MIT (package licence)", "origin": "test file of pydicom"}
        )
    return lines


def _simulate(organ: str, number: int, seed: int) -> _Image:
    labels = LABELS.get(organ, ("",))
    label = labels[number % len(labels)]
    patient = f"{organ}-p{number // PER_PATIENT.get(organ, 3):03d}"
    suffix = _suffix(organ, number)
    count = CLIP_FRAMES if suffix in CLIP_CODECS or (organ == "liver" and number % 2) else 1
    # one anatomy for all frames of a clip, new speckle for each
    phantoms = [ORGANS[organ](generator(seed, "phantom", organ, number), label, i / count) for i in range(count)]
    speckle = generator(seed, "speckle", organ, number)
    attenuation = float(speckle.uniform(0.6, 1.8))
    frames = [b_mode(phantom, speckle, attenuation) for phantom in phantoms]
    spacing = round(float(speckle.uniform(0.3, 0.9)), 6)
    if number % 4 == 3 and organ not in ("heart", "fetal_head"):
        frames = [_furniture(frame, organ) for frame in frames]
    if organ == "fetal_head":
        label = f"HC_mm={float(phantoms[0].label) * spacing:.2f}"
    return _Image(organ, number, label, patient, spacing, frames, phantoms[0])


def _suffix(organ: str, number: int) -> str:
    kinds = SUFFIXES.get(organ, (".png",))
    # labels repeat every four items too: shift, or each label would have a medium of its own
    return kinds[(number + number // 4) % len(kinds)]


def _furniture(frame: Pixels, organ: str) -> Pixels:
    """What a scanner burns in: a ruler and text."""
    drawn = frame.copy()
    for at in range(16, drawn.shape[0], 24):
        cv2.line(drawn, (drawn.shape[1] - 6, at), (drawn.shape[1] - 2, at), 220, 1)
    cv2.putText(drawn, f"SIM {organ[:6].upper()}", (6, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 230, 1)
    return drawn


def _write_item(root: Path, image: _Image) -> dict[str, Any]:
    suffix = _suffix(image.organ, image.number)
    path = f"{image.organ}/{image.name}{suffix}"
    dicom = suffix == ".dcm"
    if dicom:
        data = dicom_bytes(image.frames, image.name, image.patient, image.spacing_mm)
    elif suffix in CLIP_CODECS:
        data = clip_bytes(image.frames, suffix)
    else:
        data = still_bytes(image.frames[0], suffix)
    line: dict[str, Any] = {
        "path": path,
        "organ": image.organ,
        "label": image.label,
        "sha256": _write(root / path, data),
    }
    if image.organ in MASK_KINDS and image.phantom.mask is not None:
        line["mask_kind"] = MASK_KINDS[image.organ]
        mask_suffix = ".jpg" if line["mask_kind"].startswith("jpg") else ".png"
        line["mask_path"] = f"{image.organ}/masks/{image.name}{mask_suffix}"
        _write(root / line["mask_path"], mask_bytes(image.phantom.mask, line["mask_kind"]))
    line["media"] = "dicom" if dicom else "video" if suffix in CLIP_CODECS else "image"
    line["group"] = "" if dicom else image.patient  # DICOM files name their patient themselves
    line["spacing_mm"] = image.spacing_mm if image.organ == "fetal_head" else ""
    height, width = image.frames[0].shape
    line |= {"width": width, "height": height, "frames": len(image.frames)}
    return line | {"source": "simulator", "licence": "CC0-1.0", "origin": "usfm.data.simulate"}


def _write(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
