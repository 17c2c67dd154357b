"""LUMINOUS: 341 stills of the lumbar multifidus of 109 athletes, left, right or both in one picture.

Known of the layout: the two folders and the names, `<number>_<number>_Bmode.tif` with `_Mask.tif`, or `_Mask1.tif`
and `_Mask2.tif` where both sides are in the picture (they are united). Assumed: the first number is the person.
The scanner is that of the paper.
"""

import re
from collections import defaultdict
from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import NOT_STATED, Source
from usfm.data.sources.layout import base_folder, child, is_medium
from usfm.data.sources.tree import Folder
from usfm.errors import DataError

__all__ = ["LUMINOUS"]

TITLE = "LUMINOUS (Belasso et al., BMC Musculoskeletal Disorders 21, 703, 2020, doi:10.1186/s12891-020-03679-3)"
LAYOUT = """B-mode/54_27_Bmode.tif
Masks/54_27_Mask.tif     or _Mask1.tif and _Mask2.tif"""
IMAGE = re.compile(r"(?P<key>(?P<person>[^_]+)_.+)_Bmode\.\w+", re.IGNORECASE)
MASK = re.compile(r"(?P<key>.+)_Mask\d*\.\w+", re.IGNORECASE)


def check(root: UPath) -> None:
    """Both folders are there, and an image has the expected name.

    Raises:
        DataError: another layout.
    """
    images = child(_base(root), "B-mode")
    if not any(IMAGE.fullmatch(file) for file in images.files):
        raise DataError(f"{images.path} holds no <number>_<number>_Bmode.tif; expected\n{LAYOUT}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per picture, with all its masks."""
    base = _base(root)
    images, folder = child(base, "B-mode"), child(base, "Masks")
    yield from (*images.refused, *folder.refused)
    masks: defaultdict[str, list[str]] = defaultdict(list)
    for file in folder.files:
        if found := MASK.fullmatch(file):
            masks[found["key"]].append(str(folder.path / file))
    for file in images.files:
        found = IMAGE.fullmatch(file)
        if found is None or not is_medium(file):
            yield ignored(images.of(file))
            continue
        paths = masks.get(found["key"], [])
        yield Item(
            path=str(images.path / file),
            name=images.of(file),
            organ="muscle",
            mask_path="|".join(paths),
            mask_kind="binary tif: lumbar multifidus" if paths else "",
            group=found["person"],
            device="GE Logiq e",
        )


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, ["B-mode", "Masks"])


LUMINOUS = Source(
    name="luminous",
    title=TITLE,
    layout=LAYOUT,
    licence=NOT_STATED,
    check=check,
    items=items,
    organ="muscle",
)
