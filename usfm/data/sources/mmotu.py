"""MMOTU, subset OTU_2d: 1,469 stills of ovarian tumours in eight classes, with coloured masks.

Known of the layout: the folders and lists below, the number of each class (0 to 7, in the order of `CLASSES`) and
its colour; `*_binary.PNG` beside the masks is their foreground. The published validation list serves as test set in
the paper. Assumed: no patient is named, so groups are unknown. The contrast-enhanced subset OTU_CEUS is not read.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import NOT_STATED, Source
from usfm.data.sources.layout import base_folder, by_stem, child, is_medium
from usfm.data.sources.tree import Folder
from usfm.errors import DataError

__all__ = ["MMOTU"]

TITLE = "MMOTU, OTU_2d (Zhao et al., arXiv 2207.06799)"
LAYOUT = """OTU_2d/images/1.JPG
OTU_2d/annotations/1.PNG   coloured by class
OTU_2d/train_cls.txt       lines "1.JPG  3"; also val_cls.txt"""
CLASSES = {
    "chocolate cyst": "#400000",
    "serous cystadenoma": "#004000",
    "teratoma": "#000040",
    "theca cell tumour": "#400040",
    "simple cyst": "#404000",
    "normal ovary": "#404040",
    "mucinous cystadenoma": "#008000",
    "high grade serous cystadenocarcinoma": "#000080",
}
MASK_KIND = "colours png: " + ", ".join(f"{colour} {name}" for name, colour in CLASSES.items())
LISTS = {"train_cls.txt": "train", "val_cls.txt": "val"}


def check(root: UPath) -> None:
    """The folders are there, and one list.

    Raises:
        DataError: another layout.
    """
    base = _base(root)
    if missing := [name for name in ("images", "annotations") if name not in base.folders]:
        raise DataError(f"{base.path} lacks {' and '.join(missing)}; expected\n{LAYOUT}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per image; label and split are those of the lists."""
    base = _base(root)
    images, annotations = child(base, "images"), child(base, "annotations")
    yield from (*images.refused, *annotations.refused)
    masks = by_stem(annotations.files)
    listed = _listed(base)
    for file in images.files:
        if not is_medium(file):
            yield ignored(images.of(file))
            continue
        label, split = listed.pop(file.lower(), ("", ""))
        mask = masks.get(PurePosixPath(file).stem, "")
        yield Item(
            path=str(images.path / file),
            name=images.of(file),
            organ="ovary",
            label=label,
            mask_path=str(annotations.path / mask) if mask else "",
            mask_kind=MASK_KIND if mask else "",
            group="unknown (no ids)",
            official_split=split,
        )
    for file in listed:
        yield Rejected(images.of(file), "", "file", "a list names this image, but images/ lacks it")


def _listed(base: Folder) -> dict[str, tuple[str, str]]:
    """File in lower case -> (label, split)."""
    names = list(CLASSES)
    found: dict[str, tuple[str, str]] = {}
    for table, split in LISTS.items():
        if table not in base.files:
            continue
        path = base.path / table
        for line in path.read_bytes().decode("utf-8-sig", errors="replace").splitlines():
            file, _, number = line.strip().partition(" ")
            number = number.strip()
            known = number.isdecimal() and int(number) < len(names)
            if file:
                found[file.lower()] = (names[int(number)] if known else number, split)
    return found


def _base(root: UPath) -> Folder:
    lists = "|".join(f"{where}{name}" for where in ("OTU_2d/", "") for name in LISTS)
    base = base_folder(root, TITLE, LAYOUT, [lists])
    return child(base, "OTU_2d") if "OTU_2d" in base.folders else base


MMOTU = Source(
    name="mmotu",
    title=TITLE,
    layout=LAYOUT,
    licence=NOT_STATED,
    check=check,
    items=items,
    organ="ovary",
)
