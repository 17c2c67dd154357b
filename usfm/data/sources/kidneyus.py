"""The Open Kidney data set (kidneyUS): stills of native and transplanted kidneys, four regions as polygons.

Known of the layout: the tables, as the VGG Image Annotator writes them, and the image names
`<number>_<study>_anon.png`; images lie in `images` or `labels/images`. There is one image per patient, but about
twenty were published twice under two numbers: what follows the number is the group, so that copies stay together.
The first sonographer's regions are taken, the second's only for images that the first did not draw.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.readers.polygons import kidneyus_regions
from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_columns, read_table
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child, is_medium
from usfm.data.sources.tree import Folder
from usfm.errors import DataError, UnreadableFile

__all__ = ["KIDNEYUS"]

TITLE = "Open Kidney Ultrasound Data Set (Singla et al., arXiv 2206.06657)"
LAYOUT = """images/1_IM-0001-0059_anon.png      or labels/images/
labels/reviewed_labels_1.csv        filename, file_attributes, region_shape_attributes, region_attributes
labels/reviewed_labels_2.csv        optional: the second sonographer"""
TABLES = ("labels/reviewed_labels_1.csv", "labels/reviewed_labels_2.csv")
IMAGE_FOLDERS = ("labels/images", "images")
COLUMNS = ("filename", "file_attributes", "region_shape_attributes", "region_attributes")
CLASSES = "capsule, cortex, medulla, central echo complex"


def check(root: UPath) -> None:
    """Images and the first table are there, and it has its columns.

    Raises:
        DataError: another layout.
    """
    read_columns(_base(root).path / TABLES[0], COLUMNS)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per image, with the regions of one sonographer."""
    base = _base(root)
    tables = [base.path / TABLES[0]]
    if PurePosixPath(TABLES[1]).name in child(base, "labels").files:
        tables.append(base.path / TABLES[1])
    drawn: dict[str, UPath] = {}
    views: dict[str, str] = {}
    for table in reversed(tables):
        drawn |= dict.fromkeys(_drawn(table), table)
        views |= _views(table)
    folder = IMAGE_FOLDERS[0] if "images" in child(base, "labels").folders else IMAGE_FOLDERS[1]
    images = child(base, folder)
    yield from images.refused
    for file in images.files:
        if not is_medium(file):
            yield ignored(images.of(file))
            continue
        known = file in drawn
        yield Item(
            path=str(images.path / file),
            name=images.of(file),
            organ="kidney",
            label=views.get(file, ""),
            mask_path=str(drawn[file]) if known else "",
            mask_kind=f'polygons kidneyus-csv file="{file}": {CLASSES}' if known else "",
            group=PurePosixPath(file).stem.partition("_")[2] or PurePosixPath(file).stem,
        )


def _drawn(table: UPath) -> list[str]:
    """Images that have a region of a known class."""
    known = set(CLASSES.split(", "))
    try:
        regions = kidneyus_regions(table.read_bytes())
    except UnreadableFile as error:
        raise DataError(f"{table}: {error}") from None
    return [file for file, shapes in regions.items() if any(name in known for name, _ in shapes)]


def _views(table: UPath) -> dict[str, str]:
    """The view of each image, as the sonographer states it: Longitudinal, Transverse, ..."""
    found: dict[str, str] = {}
    for row in read_table(table, COLUMNS):
        try:
            found[row["filename"]] = str(json.loads(row["file_attributes"])["View"])
        except (ValueError, TypeError, KeyError):
            found.setdefault(row["filename"], "")
    return found


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, [TABLES[0], "|".join(IMAGE_FOLDERS)])


KIDNEYUS = Source(
    name="kidneyus",
    title=TITLE,
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0",
    check=check,
    items=items,
    organ="kidney",
)
