"""Where files lie: local paths, and every URL that fsspec opens (s3://, gs://, hf://, zip://...::...).

A location is text, so that it travels in configurations and to other machines; `locate` makes it a path object
with pathlib's methods (universal-pathlib). Writing is atomic: a killed writer leaves no half file.
"""

import contextlib
import csv
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from upath import UPath

from usfm.errors import DataError

__all__ = [
    "absolute",
    "Location",
    "files_below",
    "forget_listings",
    "is_local",
    "local_path",
    "locate",
    "remove_tree",
    "write_bytes",
    "write_table",
    "writing",
]

Location = str | os.PathLike[str] | UPath
PARTIAL_SUFFIX = ".partial"


def locate(location: Location) -> UPath:
    """A path object for a location; a zip file stands for the folder inside it.

    Raises:
        DataError: a URL whose protocol needs a package that is not installed, or an unknown one.
    """
    if isinstance(location, UPath):
        return location
    text = os.fspath(location)
    if text.lower().endswith(".zip") and "::" not in text:
        text = f"zip://::{text}"
    try:
        return UPath(text)
    except (ImportError, ValueError) as error:
        raise DataError(f"{text} cannot be opened: {error}; give a local path or a URL that fsspec knows") from None


def is_local(path: UPath) -> bool:
    """Whether the files lie in this machine's file system, so that they can be memory-mapped and linked."""
    return isinstance(path, Path)


def absolute(location: str) -> str:
    """The same place for a process with another working directory: local paths absolute, URLs as they are."""
    path = locate(location)
    return str(path.absolute()) if isinstance(path, Path) else location


def local_path(path: UPath) -> Path:
    """The same place as a `pathlib.Path`.

    Raises:
        DataError: it is not local.
    """
    if isinstance(path, Path):
        return path
    raise DataError(f"{path} is not a local path; this step needs one")


@contextlib.contextmanager
def writing(path: UPath) -> Iterator[BinaryIO]:
    """A binary stream whose bytes become the file whole when the block ends well, and not at all when it fails.

    Local files are written beside their place and renamed. Elsewhere the bytes go to a temporary file of this
    machine first and are uploaded at the end, so that memory holds none of them and a reader never sees half.
    """
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    else:
        handle, name = tempfile.mkstemp(suffix=PARTIAL_SUFFIX)
        os.close(handle)
        partial = Path(name)
    try:
        with partial.open("wb") as stream:
            yield stream
        if isinstance(path, Path):
            os.replace(partial, path)
        else:
            path.fs.put_file(str(partial), path.path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: UPath, data: bytes) -> None:
    """Write a file whole or not at all, with its folders.

    Local files are written beside their place and renamed; an object store's put is atomic by itself.
    """
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    with writing(path) as stream:
        stream.write(data)


def write_table(path: UPath, columns: Sequence[str], lines: Iterable[Sequence[object]]) -> int:
    """Write a CSV file (UTF-8, Unix line ends) whole or not at all; the lines are taken one by one and counted."""
    count = 0
    with writing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        for line in lines:
            table.writerow(line)
            count += 1
        text.flush()
        text.detach()  # the stream stays open for its owner
    return count


def files_below(root: UPath) -> Iterator[tuple[str, int]]:
    """(path relative to `root` with forward slashes, size in bytes) of every file below a folder, as it is now.

    Nothing where there is no such folder. The order is the file system's.
    """
    if isinstance(root, Path):
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder, name)
                yield path.relative_to(root).as_posix(), path.stat().st_size
        return
    forget_listings(root)
    top = root.path.rstrip("/") + "/"
    for name, entry in root.fs.find(root.path, detail=True).items():
        yield name.removeprefix(top), int(entry["size"] or 0)


def forget_listings(path: UPath) -> None:
    """Drop what fsspec remembers of folders: other processes write there too, and memory stays flat."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()


def remove_tree(path: UPath) -> None:
    """Remove a folder and everything in it; nothing happens where there is none."""
    if isinstance(path, Path):
        shutil.rmtree(path, ignore_errors=True)
        return
    forget_listings(path)
    if path.exists():
        path.fs.rm(path.path, recursive=True)
