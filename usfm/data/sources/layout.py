"""What adapters of published data sets share: the folder that a layout begins in, and what lies below it."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.readers.decode import CLIP_SUFFIXES, STILL_SUFFIXES
from usfm.data.sources.tree import Folder, list_folder
from usfm.errors import DataError

__all__ = ["base_folder", "by_stem", "child", "is_medium"]


def base_folder(root: UPath, title: str, layout: str, markers: Sequence[str]) -> Folder:
    """The folder in which a layout begins: `root`, or the only folder in it (as zip files have one).

    Args:
        root: the archive's root.
        title: of the data set, for the error.
        layout: of the data set, for the error.
        markers: paths that must be there, below the folder; "a|b" = one of them.

    Raises:
        DataError: what is missing, and what was expected.
    """
    top = list_folder(root)
    missing = _missing(top, markers)
    if missing and len(top.folders) == 1 and not _missing(inner := child(top, top.folders[0]), markers):
        return inner
    if missing:
        wanted = " and ".join(marker.replace("|", " or ") for marker in missing)
        raise DataError(f"{root} is not laid out as {title}: no {wanted} there; expected\n{layout}")
    return top


def child(folder: Folder, name: str) -> Folder:
    """A folder below another, named relative to the same root.

    Args:
        folder: the outer one.
        name: path below it, with forward slashes.

    Raises:
        DataError: there is no such folder.
    """
    return list_folder(folder.path / name, folder.of(name))


def by_stem(files: Sequence[str]) -> dict[str, str]:
    """File by its name without the suffix; of several the last in the order of names."""
    return {PurePosixPath(file).stem: file for file in files}


def is_medium(file: str) -> bool:
    """Whether the suffix is that of a still or a clip."""
    return PurePosixPath(file).suffix.lower() in STILL_SUFFIXES | CLIP_SUFFIXES


def _missing(folder: Folder, markers: Sequence[str]) -> list[str]:
    return [marker for marker in markers if not any(_has(folder, path) for path in marker.split("|"))]


def _has(folder: Folder, path: str) -> bool:
    first, _, rest = path.partition("/")
    if not rest:
        return first in folder.files or first in folder.folders
    return first in folder.folders and _has(child(folder, first), rest)
