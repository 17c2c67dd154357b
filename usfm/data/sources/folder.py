"""A tree `<organ>/[<label>/][<group>/]file`: the layout for one's own files.

The organ is the first folder. A still `x_mask.png` beside `x.png` is its binary mask. Files without a media
suffix are taken if they are DICOM (scanners write them bare), else counted as ignored.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.readers.decode import CLIP_SUFFIXES, STILL_SUFFIXES, VOLUME_SUFFIXES, sniff
from usfm.data.schema import Item, Rejected
from usfm.data.sources.found import Source, organ_name
from usfm.data.sources.tree import Folder, list_folder, walk

__all__ = ["FOLDER", "MEDIA_SUFFIXES", "folder_items", "ignored", "is_media", "mask_partners"]

MEDIA_SUFFIXES = STILL_SUFFIXES | CLIP_SUFFIXES | VOLUME_SUFFIXES | {".dcm", ".dicom", ".imf"}


def folder_check(root: UPath) -> None:
    """Any folder will do.

    Raises:
        DataError: `root` is no folder.
    """
    list_folder(root)


def folder_items(root: UPath) -> Iterator[Item | Rejected]:
    """Items of a tree `<root>/<organ>/[<label>/][<group>/]file`."""
    for folder in walk(root):
        yield from folder.refused
        masks = mask_partners(folder.files)
        partners = set(masks.values())
        parts = folder.name.split("/") if folder.name else []
        for file in folder.files:
            name = folder.of(file)
            if file in partners:
                continue
            if not is_media(folder, file):
                yield ignored(name)
            elif not parts:
                yield Rejected(name, "", "file", "lies in no organ folder; expected <organ>/.../file")
            else:
                yield Item(
                    path=str(folder.path / file),
                    name=name,
                    organ=organ_name(parts[0]),
                    label=parts[1] if len(parts) > 1 else "",
                    mask_path=str(folder.path / masks[file]) if file in masks else "",
                    mask_kind="binary png" if file in masks else "",
                    group="/".join(parts[2:]),
                )


def mask_partners(files: list[str]) -> dict[str, str]:
    """Image file -> its `<stem>_mask.*` file, among the files of one folder."""
    by_stem = {PurePosixPath(file).stem: file for file in files if _suffix(file) in STILL_SUFFIXES}
    found: dict[str, str] = {}
    for stem, file in by_stem.items():
        if stem.lower().endswith("_mask") and (image := by_stem.get(stem[:-5])) is not None:
            found[image] = file
    return found


def is_media(folder: Folder, file: str) -> bool:
    """Whether a file's suffix is that of a medium, or it has none and is DICOM."""
    suffix = _suffix(file)
    if suffix in MEDIA_SUFFIXES or file.lower().endswith(".nii.gz"):
        return True
    if suffix and not suffix[1:].isdigit():  # DICOM files are often named by their UID: 1.2.840.1
        return False
    try:
        with (folder.path / file).open("rb") as stream:
            return sniff(stream.read(132)) == "dicom"
    except OSError:
        return True  # unreadable: let the reader say why in the quarantine table


def ignored(name: str) -> Rejected:
    """An entry for a file that is no medium; such are counted, not listed."""
    return Rejected(name, "", "ignored", "not an image, clip or DICOM file")


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


FOLDER = Source(
    name="folder",
    title="a folder per organ",
    layout="<organ>/[<label>/][<group>/]x.png, with x_mask.png beside x.png where there is a binary mask",
    licence="",
    check=folder_check,
    items=folder_items,
    published=False,
)
