"""Annotated Ultrasound Liver images: 735 stills, liver and mass outlined as polygons.

Known of the layout: the folders below; a polygon file is JSON `[[x, y], ...]` in px of its image. Every image is of
another patient. Some files are missing: one image has no liver, and of 229 and 306 the liver was saved as `outline`
(the outline is otherwise the scan's sector, which is not read). Images without mass have no file in `mass`.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child, is_medium
from usfm.data.sources.tree import Folder, file_names

__all__ = ["AUL"]

TITLE = "Annotated Ultrasound Liver images (Xu et al., Zenodo, 2022, doi:10.5281/zenodo.7272660)"
LAYOUT = """Benign/image/1.jpg                    also Malignant/ and Normal/
Benign/segmentation/liver/1.json
Benign/segmentation/mass/1.json       where there is a mass
Benign/segmentation/outline/1.json    the scan's sector"""
CATEGORIES = ("Benign", "Malignant", "Normal")
PARTS = ("image", "segmentation")
MASK_KIND = "polygons json: liver, mass"
LIVER_SAVED_AS_OUTLINE = {"229.json", "306.json"}


def check(root: UPath) -> None:
    """Images and polygons of the first two categories are there.

    Raises:
        DataError: another layout.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One still per image, with the polygons that are there."""
    base = _base(root)
    for category in CATEGORIES:
        if category not in base.folders or "image" not in child(base, category).folders:
            continue
        images = child(base, f"{category}/image")
        yield from images.refused
        drawn = base.path / category / "segmentation"
        files = {name: set(file_names(drawn / name)) for name in ("liver", "mass", "outline")}
        for file in images.files:
            if not is_medium(file):
                yield ignored(images.of(file))
                continue
            stem = PurePosixPath(file).stem
            polygon = f"{stem}.json"
            liver = "liver"
            if polygon not in files["liver"] and polygon in LIVER_SAVED_AS_OUTLINE:
                liver = "outline"
            paths = [str(drawn / name / polygon) if polygon in files[name] else "" for name in (liver, "mass")]
            yield Item(
                path=str(images.path / file),
                name=images.of(file),
                organ="liver",
                label=category,
                mask_path="|".join(paths) if any(paths) else "",
                mask_kind=MASK_KIND if any(paths) else "",
                group=f"{category} {stem}",
            )


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, [f"{name}/{part}" for name in CATEGORIES[:2] for part in PARTS])


AUL = Source(
    name="aul",
    title=TITLE,
    layout=LAYOUT,
    licence="CC BY 4.0",
    check=check,
    items=items,
    organ="liver",
)
