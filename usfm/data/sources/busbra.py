"""BUS-BRA, breasts, National Institute of Cancer, Rio de Janeiro (Gomez-Flores et al., Medical Physics 51, 2024).

Known: `Images/bus_0001-l.png`, `Masks/mask_0001-l.png` (0/255), and `bus_data.csv` with the columns ID, Case,
Histology, Pathology (benign, malignant), BIRADS, Device, Width, Height, Side, BBOX; 1,875 images of 1,064 patients.
Case is the patient. The folds of `5-fold-cv.csv` and `10-fold-cv.csv` are no fixed split and are not read.
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

__all__ = ["BUSBRA"]

TABLE = "bus_data.csv"
COLUMNS = ("ID", "Case", "Pathology")


def check(root: UPath) -> None:
    """The table with its columns, and the folder of images.

    Raises:
        DataError: one of them is missing.
    """
    read_columns(_base(root).path / TABLE, COLUMNS)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image, with what the table says of it."""
    base = _base(root)
    lines = {line["ID"]: line for line in read_table(base.path / TABLE, COLUMNS)}
    masks = child(base, "Masks")
    folder = child(base, "Images")
    yield from folder.refused
    for file in folder.files:
        stem = PurePosixPath(file).stem
        if not file.lower().endswith(".png"):
            yield ignored(folder.of(file))
            continue
        if (line := lines.pop(stem, None)) is None:
            yield Rejected(folder.of(file), "", "file", f"{TABLE} has no line for {stem}")
            continue
        mask = f"mask_{stem.removeprefix('bus_')}.png"
        yield Item(
            path=str(folder.path / file),
            name=folder.of(file),
            organ="breast",
            label=line["Pathology"],
            mask_path=str(masks.path / mask) if mask in masks.files else "",
            mask_kind="binary png: lesion" if mask in masks.files else "",
            group=f"case{line['Case']}" if line["Case"] else "unknown",
            device=line.get("Device", ""),
        )
    for stem in lines:
        yield Rejected(folder.of(f"{stem}.png"), "", "file", f"{TABLE} names this file, and it is missing")


def _base(root: UPath) -> Folder:
    return base_folder(root, BUSBRA.title, BUSBRA.layout, (TABLE, "Images", "Masks"))


BUSBRA = Source(
    name="busbra",
    title="BUS-BRA (Gomez-Flores et al., Medical Physics 2024)",
    layout="Images/bus_0001-l.png, Masks/mask_0001-l.png, bus_data.csv (ID, Case, Pathology, Device, ...)",
    licence="CC BY 4.0",
    check=check,
    items=items,
    organ="breast",
)
