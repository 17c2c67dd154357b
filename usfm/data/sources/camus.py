"""CAMUS: apical two- and four-chamber echocardiography, end-diastole, end-systole and half a beat between.

Known of the layout: both releases as the publisher describes them, the three split lists of the NIfTI release, and
that `testing/` of the mhd release has no masks and numbers its patients anew. A sequence of the NIfTI release has
a mask for each frame. `Info_*.cfg` (quality, sex, age, EF) is not read. All were acquired with one scanner model.
"""

import re
from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child
from usfm.data.sources.tree import Folder, file_names
from usfm.errors import DataError

__all__ = ["CAMUS"]

TITLE = "CAMUS (Leclerc et al., IEEE Transactions on Medical Imaging 38(9), 2019, doi:10.1109/TMI.2019.2900516)"
LAYOUT = """database_nifti/patient0001/patient0001_2CH_ED.nii.gz     also ES, half_sequence, and 4CH
database_nifti/patient0001/patient0001_2CH_ED_gt.nii.gz  the masks
database_split/subgroup_training.txt                     optional; also _validation, _testing
or the older release:
training/patient0001/patient0001_2CH_ED.mhd, .raw        also ES, sequence, and 4CH
training/patient0001/patient0001_2CH_ED_gt.mhd, .raw     the masks
testing/patient0001/...                                  the same without masks"""
CLASSES = "0 background, 1 left ventricle, 2 myocardium, 3 left atrium"
RELEASES = ("database_nifti", "training", "testing")
FOLDER_SPLITS = {"training": "train", "testing": "test"}
SPLIT_LISTS = {"subgroup_training": "train", "subgroup_validation": "val", "subgroup_testing": "test"}
PICTURE = re.compile(
    r"(?P<stem>patient\d+_(?P<view>[24]CH)_(?P<phase>ED|ES|(?:half_)?sequence))\.(nii|nii\.gz|mhd)"
)


def check(root: UPath) -> None:
    """The first patient's folder holds a picture.

    Raises:
        DataError: another layout.
    """
    base = _base(root)
    release = child(base, next(name for name in RELEASES if name in base.folders))
    patients = [name for name in release.folders if name.startswith("patient")]
    if not patients or not any(PICTURE.fullmatch(file) for file in child(release, patients[0]).files):
        raise DataError(f"{release.path} holds no patient0001/patient0001_2CH_ED.*; expected\n{LAYOUT}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """ED and ES with their masks, and the sequences."""
    base = _base(root)
    splits = _splits(base)
    for name in RELEASES:
        if name not in base.folders:
            continue
        release = child(base, name)
        for patient in release.folders:
            split = FOLDER_SPLITS.get(name) or splits.get(patient, "")
            group = f"{name}/{patient}" if name in FOLDER_SPLITS else patient
            yield from _patient(child(release, patient), group, split)


def _patient(folder: Folder, group: str, split: str) -> Iterator[Item | Rejected]:
    yield from folder.refused
    files = set(folder.files)
    for file in folder.files:
        if (found := PICTURE.fullmatch(file)) is None:
            continue
        stem, phase = found["stem"], found["phase"]
        mask = f"{stem}_gt{file.removeprefix(stem)}"
        sequence = " frame=each" if phase.endswith("sequence") else ""
        yield Item(
            path=str(folder.path / file),
            name=folder.of(file),
            organ="heart",
            label=f"{found['view']} {phase.replace('_', ' ')}",
            mask_path=str(folder.path / mask) if mask in files else "",
            mask_kind=f"index volume{sequence}: {CLASSES}" if mask in files else "",
            group=group,
            device="GE Vivid E95",
            official_split=split,
        )


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, ["|".join(RELEASES)])


def _splits(base: Folder) -> dict[str, str]:
    """Patient -> split, from the lists of the NIfTI release."""
    lists = base.path / "database_split"
    found: dict[str, str] = {}
    for file in file_names(lists):
        if split := SPLIT_LISTS.get(file.removesuffix(".txt")):
            path = lists / file
            found |= dict.fromkeys(path.read_bytes().decode("utf-8-sig", errors="replace").split(), split)
    return found


CAMUS = Source(
    name="camus",
    title=TITLE,
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0",
    check=check,
    items=items,
    organ="heart",
)
