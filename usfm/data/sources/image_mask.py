"""Two folders side by side, images and their masks: `[<split>/]images/x.png` and `[<split>/]masks/x.png`.

Assumed of nobody in particular. A mask has its image's stem, alone or with `_mask` behind; masks are binary
(0/255). The folders may also be called image, img, imgs and mask, label, labels. The layout says nothing of
organs: `source_options.organ` must.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.class_folders import SPLIT_FOLDERS
from usfm.data.sources.folder import ignored, is_media
from usfm.data.sources.found import Source
from usfm.data.sources.tree import Folder, first_folder, folder_names, list_folder, walk
from usfm.errors import DataError

__all__ = ["IMAGE_MASK"]

IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label")


def check(root: UPath) -> None:
    """The two folders, in `root` or in a split folder of it.

    Raises:
        DataError: there is no such pair.
    """
    if not _pairs(root):
        has = ", ".join(folder_names(root)) or "no folders"
        raise DataError(f"{root} holds {has}; expected {IMAGE_MASK.layout}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image, with the mask of its name where there is one."""
    for split, images, masks in _pairs(root):
        yield from _pair(root, split, images, list_folder(masks))


def _pair(root: UPath, split: str, images: UPath, masks: Folder) -> Iterator[Item | Rejected]:
    by_stem = {PurePosixPath(file).stem.removesuffix("_mask"): file for file in masks.files}
    prefix = images.path.removeprefix(root.path).strip("/")
    for folder in walk(images):
        yield from folder.refused
        for file in folder.files:
            name = f"{prefix}/{folder.of(file)}"
            if not is_media(folder, file):
                yield ignored(name)
                continue
            mask = by_stem.pop(PurePosixPath(file).stem, "")
            yield Item(
                path=str(folder.path / file),
                name=name,
                organ="",
                mask_path=str(masks.path / mask) if mask else "",
                mask_kind="binary png" if mask else "",
                official_split=split,
            )
    for file in by_stem.values():
        where = masks.path.path.removeprefix(root.path).strip("/")
        yield Rejected(f"{where}/{file}", "", "mask", f"no image of this name in {prefix}/")


def _pairs(root: UPath) -> list[tuple[str, UPath, UPath]]:
    """(split, images, masks) of each pair of folders."""
    found = []
    places = [("", root)] + [(SPLIT_FOLDERS.get(name.lower(), ""), root / name) for name in folder_names(root)]
    for split, place in places:
        if place is not root and not split:
            continue
        images, masks = first_folder(place, IMAGE_FOLDERS), first_folder(place, MASK_FOLDERS)
        if images is not None and masks is not None:
            found.append((split, images, masks))
    return found


IMAGE_MASK = Source(
    name="image_mask",
    title="images and masks side by side",
    layout="[train|val|test/]images/x.png and masks/x.png (or x_mask.png); also image, img; mask, label, labels",
    licence="",
    check=check,
    items=items,
    published=False,
    needs_organ=True,
)
