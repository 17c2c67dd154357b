"""BUSI, breast ultrasound images of Baheya hospital, Cairo (Al-Dhabyani et al., Data in Brief 28, 2020).

Known: `benign (1).png` with `benign (1)_mask.png` in folders benign, malignant and normal; 17 images have further
masks `_mask_1.png`, `_mask_2.png`, one per lesion, which are united here; normal images have empty masks. No
patient identifiers are published, and the set is known to hold near-duplicates across classes.
"""

import re
from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child
from usfm.data.sources.tree import Folder

__all__ = ["BUSI"]

CLASSES = ("benign", "malignant", "normal")
FILE = re.compile(r"((?:benign|malignant|normal) ?\(\d+\))(_mask(?:_\d+)?)?\.png", re.IGNORECASE)


def check(root: UPath) -> None:
    """Folders of two classes, with files named after them.

    Raises:
        DataError: they are missing.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image; several masks of one image are joined with `|`."""
    base = _base(root)
    for label in CLASSES:
        if label not in base.folders:
            continue
        folder = child(base, label)
        yield from folder.refused
        images: dict[str, str] = {}
        masks: dict[str, list[str]] = {}
        for file in folder.files:
            if (match := FILE.fullmatch(file)) is None:
                yield ignored(folder.of(file))
            elif match[2]:
                masks.setdefault(match[1], []).append(str(folder.path / file))
            else:
                images[match[1]] = file
        for stem, file in images.items():
            found = masks.pop(stem, [])
            yield Item(
                path=str(folder.path / file),
                name=folder.of(file),
                organ="breast",
                label=label,
                mask_path="|".join(found),
                mask_kind="binary png: lesion" if found else "",
                group="unknown",
            )
        for stem in masks:
            yield Rejected(folder.of(f"{stem}_mask.png"), "", "mask", f"there is no image {stem}.png")


def _base(root: UPath) -> Folder:
    return base_folder(root, BUSI.title, BUSI.layout, ("benign/benign (1).png", "malignant/malignant (1).png"))


BUSI = Source(
    name="busi",
    title="BUSI (Al-Dhabyani et al., Data in Brief 2020)",
    layout="benign/, malignant/, normal/: `benign (1).png`, `benign (1)_mask.png`, `benign (1)_mask_1.png`",
    licence="",
    check=check,
    items=items,
    organ="breast",
)
