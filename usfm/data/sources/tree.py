"""Folders of any file system, one at a time: what lies in them, and what is not followed.

Works on local folders, object stores and zip files. Only one folder's names are in memory at once (and a zip
file's table of contents, which every reader of zip files holds). Hidden entries are passed over.
"""

import contextlib
import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from fsspec.archive import AbstractArchiveFileSystem
from upath import UPath

from usfm.data.location import is_local
from usfm.data.schema import Rejected
from usfm.data.sources.names import name_problem, printable
from usfm.errors import DataError

__all__ = [
    "Folder",
    "file_names",
    "first_folder",
    "folder_names",
    "list_folder",
    "remembered",
    "some_files",
    "walk",
]

NOT_LISTED = {"__MACOSX", "$RECYCLE.BIN", "System Volume Information"}  # what operating systems leave behind
_REMEMBERED: ContextVar[dict[tuple[str, str], "Folder"] | None] = ContextVar("_REMEMBERED", default=None)
LINK = "a link to a folder is not followed; copy the folder"
LOOP = "a link to a folder above it: a loop, not followed"


class Folder(NamedTuple):
    """The visible entries of one folder.

    Attributes:
        path: where it lies.
        name: relative to the walk's root with forward slashes, "" for the root.
        files: names of regular files, and of links to them, sorted.
        folders: names of folders, sorted.
        refused: what is neither, or has a name that cannot be used.
    """

    path: UPath
    name: str
    files: list[str]
    folders: list[str]
    refused: list[Rejected]

    def of(self, file: str) -> str:
        """Name of a file of this folder, relative to the root."""
        return f"{self.name}/{file}" if self.name else file


def walk(root: UPath) -> Iterator[Folder]:
    """Every folder below `root`, and itself first; links to folders are refused, not followed.

    Raises:
        DataError: `root` is no folder or cannot be listed.
    """
    contents = _zip_contents(root) if not is_local(root) else None
    waiting = [("", [""])]  # (folder, names of folders in it, the next one last)
    while waiting:
        above, names = waiting[-1]
        if not names:
            waiting.pop()
            continue
        last = names.pop()
        name = f"{above}/{last}" if above else last
        try:
            folder = list_folder(root / name if name else root, name, contents)
        except DataError as error:
            if not name:
                raise
            folder = Folder(root / name, name, [], [], [Rejected(name, "", "file", str(error))])
        yield folder
        if not is_local(root):
            root.fs.invalidate_cache(folder.path.path)  # object stores keep each listing otherwise, for ever
        waiting.append((name, folder.folders[::-1]))


def list_folder(path: UPath, name: str = "", contents: Mapping[str, list[tuple[str, str]]] | None = None) -> Folder:
    """The entries of one folder.

    Args:
        path: the folder.
        name: its name relative to the archive's root, for reasons.
        contents: what a zip file holds, by folder; else the folder itself is listed.

    Raises:
        DataError: it is no folder or cannot be listed.
    """
    known = _REMEMBERED.get()
    if known is not None and (str(path), name) in known:
        return known[str(path), name]
    folder = Folder(path, name, [], [], [])
    entries = _local_entries(path) if is_local(path) else _remote_entries(path, contents)
    for entry, kind in entries:
        if entry.startswith(".") or entry in NOT_LISTED:
            continue
        whole = folder.of(entry)
        if problem := name_problem(whole):
            folder.refused.append(Rejected(printable(whole), "", "file", problem))
        elif kind == "file":
            folder.files.append(entry)
        elif kind == "folder":
            folder.folders.append(entry)
        else:
            folder.refused.append(Rejected(whole, "", "file", kind))
    for names in (folder.files, folder.folders):
        names.sort()  # in place: a folder may hold millions
    if known is not None:
        known[str(path), name] = folder
    return folder


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """List each folder once while this lasts: to recognise an archive, many layouts look into the same ones."""
    token = _REMEMBERED.set({})
    try:
        yield
    finally:
        _REMEMBERED.reset(token)


def file_names(folder: UPath) -> list[str]:
    """Sorted names of a folder's visible files; none where there is no such folder."""
    try:
        return list_folder(folder).files
    except DataError:
        return []


def some_files(folder: UPath, limit: int = 200) -> list[str]:
    """Names of the first files of a folder, in its own order: enough to recognise a layout by, at any size."""
    if not is_local(folder):
        return file_names(folder)[:limit]
    try:
        with os.scandir(str(folder)) as entries:
            return [entry.name for entry in itertools.islice(entries, limit)]
    except OSError:
        return []


def folder_names(folder: UPath) -> list[str]:
    """Sorted names of a folder's visible folders; none where there is no such folder."""
    try:
        return list_folder(folder).folders
    except DataError:
        return []


def first_folder(root: UPath, names: tuple[str, ...]) -> UPath | None:
    """The first of `names` that is a folder in `root`, whatever its case."""
    found = {name.lower(): name for name in reversed(folder_names(root))}
    return next((root / found[name.lower()] for name in names if name.lower() in found), None)


def _local_entries(path: UPath) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(str(path)) as entries:
            for entry in entries:
                yield entry.name, _local_kind(entry)
    except OSError as error:
        raise DataError(f"the folder {printable(str(path))} cannot be listed: {error.strerror}") from None


def _local_kind(entry: os.DirEntry[str]) -> str:
    """What an entry is: file, folder, or why it is neither."""
    try:
        if entry.is_symlink() and entry.is_dir():
            here = Path(entry.path).parent
            return LOOP if here.resolve().is_relative_to(Path(entry.path).resolve()) else LINK
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        return f"a link that cannot be followed: {error.strerror}"
    if entry.is_symlink():
        return "a link that leads to no file"
    return "a pipe, socket or device, not a file; it was not read"


def _remote_entries(path: UPath, contents: Mapping[str, list[tuple[str, str]]] | None) -> Iterator[tuple[str, str]]:
    if contents is not None:
        yield from contents.get(path.path.strip("/"), [])
        return
    try:
        listed = path.fs.ls(path.path, detail=True)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be listed: {error}") from None
    own = path.path.strip("/")
    for entry in listed:
        whole = entry["name"].strip("/")
        if whole != own:  # a store's placeholder for the folder itself
            yield whole.rpartition("/")[2], "folder" if entry["type"] == "directory" else "file"


def _zip_contents(root: UPath) -> Mapping[str, list[tuple[str, str]]] | None:
    """Entries by folder: zip files can only be listed whole, so that is done once."""
    if not isinstance(root.fs, AbstractArchiveFileSystem):
        return None
    contents: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for whole, entry in root.fs.find("", withdirs=True, detail=True).items():
        parent, _, name = whole.strip("/").rpartition("/")
        if name:
            contents[parent].append((name, "folder" if entry["type"] == "directory" else "file"))
    return contents
