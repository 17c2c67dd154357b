"""BUS-UCLM, breast ultrasound of Ciudad Real (Vallez et al., Scientific Data 12, 2025).

Known: `images/ANFO_005.png`, `masks/ANFO_005.png` (green benign, red malignant, black normal), and `INFO.csv` with
`;` between the columns Image, Label (Normal, Benign, Malignant), Resolution, Doppler, Marks, Combined; 683 images
of 38 patients, all from a Siemens ACUSON S2000. The four letters before `_` are the patient. Publications quote
CC BY 4.0 and CC BY-NC 4.0 for different versions, so no licence is stated here: see your copy.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_columns, read_table
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child
from usfm.data.sources.tree import Folder

__all__ = ["BUSUCLM"]

TABLE = "INFO.csv"
COLUMNS = ("Image", "Label")


def check(root: UPath) -> None:
    """The table with its columns, and the two folders.

    Raises:
        DataError: one of them is missing.
    """
    read_columns(_base(root).path / TABLE, COLUMNS)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image, with what the table says of it."""
    base = _base(root)
    lines = {PurePosixPath(line["Image"]).stem: line for line in read_table(base.path / TABLE, COLUMNS)}
    masks = child(base, "masks")
    folder = child(base, "images")
    yield from folder.refused
    for file in folder.files:
        stem = PurePosixPath(file).stem
        if not file.lower().endswith(".png"):
            yield ignored(folder.of(file))
            continue
        line = lines.pop(stem, {})
        patient, _, number = stem.rpartition("_")
        yield Item(
            path=str(folder.path / file),
            name=folder.of(file),
            organ="breast",
            label=line.get("Label", ""),
            mask_path=str(masks.path / file) if file in masks.files else "",
            mask_kind="RGB png: green benign, red malignant" if file in masks.files else "",
            group=patient if patient and number.isdigit() else "unknown",
            device="Siemens ACUSON S2000",
        )
    for stem in lines:
        yield Rejected(folder.of(f"{stem}.png"), "", "file", f"{TABLE} names this file, and it is missing")


def _base(root: UPath) -> Folder:
    return base_folder(root, BUSUCLM.title, BUSUCLM.layout, (TABLE, "images", "masks"))


BUSUCLM = Source(
    name="busuclm",
    title="BUS-UCLM (Vallez et al., Scientific Data 2025)",
    layout="images/ANFO_005.png, masks/ANFO_005.png (RGB), INFO.csv (Image; Label; ...)",
    licence="",
    check=check,
    items=items,
    organ="breast",
)
