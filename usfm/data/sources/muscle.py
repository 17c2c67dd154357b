"""FALLMUD: lower-leg muscles of two laboratories, aponeuroses and fascicles as two masks.

Known of the layout: the folders below; masks have their image's name, not always its suffix, and are partly JPEG.
Aponeurosis masks of RyanCunningham are stored a quarter turn counter-clockwise; where an image is not square this
shows and is undone when the mask is read. Assumed: no person is named, so groups are unknown.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import NOT_STATED, Source
from usfm.data.sources.layout import base_folder, by_stem, child, is_medium
from usfm.data.sources.tree import Folder, file_names

__all__ = ["FALLMUD"]

TITLE = "FALLMUD, fascicle lower-leg muscle ultrasound (images of N. Cronin and of R. Cunningham et al.)"
LAYOUT = """NeilCronin/images/img_00001.tif              also RyanCunningham/
NeilCronin/aponeurosis_masks/img_00001.jpg   same name, any suffix
NeilCronin/fascicle_masks/img_00001.tif"""
LABORATORIES = ("NeilCronin", "RyanCunningham")
MASKS = ("aponeurosis_masks", "fascicle_masks")
MASK_KIND = "layers, threshold >127, turned: aponeurosis, fascicle"


def check(root: UPath) -> None:
    """One laboratory's images are there.

    Raises:
        DataError: another layout.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per image, with the masks that are there."""
    base = _base(root)
    for laboratory in LABORATORIES:
        if laboratory not in base.folders:
            continue
        images = child(base, f"{laboratory}/images")
        yield from images.refused
        folders = [base.path / laboratory / name for name in MASKS]
        masks = [by_stem([file for file in file_names(folder) if is_medium(file)]) for folder in folders]
        for file in images.files:
            if not is_medium(file):
                yield ignored(images.of(file))
                continue
            stem = PurePosixPath(file).stem
            paths = [str(f / found[stem]) if stem in found else "" for f, found in zip(folders, masks, strict=True)]
            yield Item(
                path=str(images.path / file),
                name=images.of(file),
                organ="muscle",
                mask_path="|".join(paths) if any(paths) else "",
                mask_kind=MASK_KIND if any(paths) else "",
                group="unknown (no ids)",
                origin=laboratory,
            )


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, ["|".join(f"{name}/images" for name in LABORATORIES)])


FALLMUD = Source(
    name="fallmud",
    title=TITLE,
    layout=LAYOUT,
    licence=NOT_STATED,
    check=check,
    items=items,
    organ="muscle",
)
