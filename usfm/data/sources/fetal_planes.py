"""Fetal Planes: 12,400 stills of 1,792 pregnancies in six planes, brain planes in three kinds.

Known of the layout: the table and its columns (the published header writes "Train " with a space); images are
named without suffix in it. "Train" 1 is the published training set, 0 the test set. "Other" machines are unknown.
"""

from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_columns, read_table
from usfm.data.sources.found import Source, organ_name
from usfm.data.sources.layout import base_folder, by_stem, child, is_medium
from usfm.data.sources.tree import Folder

__all__ = ["FETAL_PLANES"]

TITLE = "Fetal Planes (Burgos-Artizzu et al., Scientific Reports 10, 10200, 2020, doi:10.1038/s41598-020-67076-5)"
LAYOUT = """Images/Patient00001_Plane1_1_of_2.png
FETAL_PLANES_DB_data.csv   Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train"""
TABLE = "FETAL_PLANES_DB_data.csv"
COLUMNS = ("Image_name", "Patient_num", "Plane", "Brain_plane", "US_Machine", "Train")
SPLITS = {"1": "train", "0": "test"}
NO_BRAIN = {"", "Not A Brain"}


def check(root: UPath) -> None:
    """Folder and table are there, and the table has its columns.

    Raises:
        DataError: another layout.
    """
    read_columns(_base(root).path / TABLE, COLUMNS)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per line of the table."""
    base = _base(root)
    images = child(base, "Images")
    yield from images.refused
    files = by_stem([file for file in images.files if is_medium(file)])
    for row in read_table(base.path / TABLE, COLUMNS):
        stem, plane, brain = row["Image_name"], row["Plane"], row["Brain_plane"]
        if (file := files.pop(stem, "")) == "":
            yield Rejected(images.of(f"{stem}.png"), "", "file", "the table names this image, Images/ lacks it")
            continue
        yield Item(
            path=str(images.path / file),
            name=images.of(file),
            organ="fetal_other" if plane == "Other" else organ_name(plane),
            label=plane if brain in NO_BRAIN else f"{plane}: {brain}",
            group=row["Patient_num"] or "unknown",
            device="" if row["US_Machine"] == "Other" else row["US_Machine"],
            official_split=SPLITS.get(row["Train"], ""),
        )
    for file in files.values():
        yield Rejected(images.of(file), "", "file", "Images/ holds it, the table does not name it")


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, ["Images", TABLE])


FETAL_PLANES = Source(
    name="fetal_planes",
    title=TITLE,
    layout=LAYOUT,
    licence="CC BY 4.0",
    check=check,
    items=items,
)
