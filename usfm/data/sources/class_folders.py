"""A folder per class, as image classifiers are fed: `[<split>/]<class>/**/image`.

Assumed of nobody in particular: class folders anywhere below, at most one level of split folders (train, val or
valid or validation, test) above them. The layout says nothing of organs: `source_options.organ` must.
"""

from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored, is_media, mask_partners
from usfm.data.sources.found import Source
from usfm.data.sources.tree import folder_names, walk
from usfm.errors import DataError

__all__ = ["CLASS_FOLDERS", "SPLIT_FOLDERS"]

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def check(root: UPath) -> None:
    """At least one folder.

    Raises:
        DataError: no folder lies in `root`.
    """
    if not folder_names(root):
        raise DataError(f"{root} holds no class folders; expected {CLASS_FOLDERS.layout}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image; the label is the name of the class folder."""
    for folder in walk(root):
        yield from folder.refused
        parts = folder.name.split("/") if folder.name else []
        split = SPLIT_FOLDERS.get(parts[0].lower(), "") if parts else ""
        classes = parts[1:] if split else parts
        masks = mask_partners(folder.files)
        partners = set(masks.values())
        for file in folder.files:
            name = folder.of(file)
            if file in partners:
                continue
            if not is_media(folder, file):
                yield ignored(name)
            elif not classes:
                yield Rejected(name, "", "file", "lies in no class folder; expected [<split>/]<class>/file")
            else:
                yield Item(
                    path=str(folder.path / file),
                    name=name,
                    organ="",
                    label=classes[0],
                    mask_path=str(folder.path / masks[file]) if file in masks else "",
                    mask_kind="binary png" if file in masks else "",
                    official_split=split,
                )


CLASS_FOLDERS = Source(
    name="class_folders",
    title="a folder per class",
    layout="[train|val|test/]<class>/x.png, with x_mask.png beside x.png where there is a binary mask",
    licence="",
    check=check,
    items=items,
    published=False,
    needs_organ=True,
)
