"""HC18, fetal heads of Radboudumc, Nijmegen (van den Heuvel et al., PLOS ONE 13(8), 2018).

Known: `training_set/000_HC.png` with `training_set/000_HC_Annotation.png` (the ellipse's outline),
`training_set_pixel_size_and_HC.csv` (filename, pixel size(mm), head circumference (mm)), `test_set/000_HC.png` with
`test_set_pixel_size.csv`; 999 and 335 images. `000_2HC.png` is another picture of fetus 000; training and test sets
count their fetuses each from 000. The tables lie beside the folders, in some copies inside them.
"""

import re
from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_table
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child
from usfm.data.sources.tree import Folder

__all__ = ["HC18"]

IMAGE = re.compile(r"(\d+)_\d*HC\.png", re.IGNORECASE)
TABLES = {"training_set": "training_set_pixel_size_and_HC.csv", "test_set": "test_set_pixel_size.csv"}


def check(root: UPath) -> None:
    """A table of pixel sizes.

    Raises:
        DataError: there is none.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image, with pixel size and head circumference."""
    base = _base(root)
    for part, table in TABLES.items():
        if part not in base.folders:
            continue
        folder = child(base, part)
        yield from folder.refused
        place = next((where for where in (base, folder) if table in where.files), None)
        rows = read_table(place.path / table, ("filename",)) if place else ()
        lines = {line["filename"]: line for line in rows}
        outlines = {file for file in folder.files if file.lower().endswith("_annotation.png")}
        for file in folder.files:
            if file in outlines or file == table:
                continue
            if (match := IMAGE.fullmatch(file)) is None:
                yield ignored(folder.of(file))
                continue
            line = lines.get(file, {})
            outline = f"{file[:-4]}_Annotation.png"
            circumference = line.get("head circumference (mm)", "")
            yield Item(
                path=str(folder.path / file),
                name=folder.of(file),
                organ="fetal_head",
                label=f"HC_mm={circumference}" if circumference else "",
                mask_path=str(folder.path / outline) if outline in outlines else "",
                mask_kind="outline png: head" if outline in outlines else "",
                group=f"{part}_{match[1]}",
                spacing_mm=_positive(line.get("pixel size(mm)", "")),
                official_split="train" if part == "training_set" else "test",
            )


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < 100 else None


def _base(root: UPath) -> Folder:
    places = [f"{inside}{table}" for part, table in TABLES.items() for inside in ("", f"{part}/")]
    return base_folder(root, HC18.title, HC18.layout, ("training_set|test_set", "|".join(places)))


HC18 = Source(
    name="hc18",
    title="HC18 (van den Heuvel et al., PLOS ONE 2018)",
    layout="training_set/000_HC.png and 000_HC_Annotation.png, test_set/, training_set_pixel_size_and_HC.csv",
    licence="CC BY 4.0",
    check=check,
    items=items,
    organ="fetal_head",
)
