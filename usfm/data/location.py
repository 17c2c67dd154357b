"""Where files lie: local paths, and every URL that fsspec opens (s3://, gs://, hf://, zip://...::...).

A location is text, so that it travels in configurations and to other machines; `locate` makes it a path object
with pathlib's methods (universal-pathlib). Writing is atomic: a killed writer leaves no half file.
"""

import os
import uuid
from pathlib import Path

from upath import UPath

from usfm.errors import DataError

__all__ = ["is_local", "local_path", "locate", "write_bytes"]


def locate(location: str | os.PathLike[str]) -> UPath:
    """A path object for a location; a zip file stands for the folder inside it.

    Raises:
        DataError: a URL whose protocol needs a package that is not installed, or an unknown one.
    """
    text = (
        os.fspath(location)
        if isinstance(location, os.PathLike) and not isinstance(location, UPath)
        else str(location)
    )
    if text.lower().endswith(".zip") and "::" not in text:
        text = f"zip://::{text}"
    try:
        return UPath(text)
    except (ImportError, ValueError) as error:
        raise DataError(f"{text} cannot be opened: {error}; give a local path or a URL that fsspec knows") from None


def is_local(path: UPath) -> bool:
    """Whether the files lie in this machine's file system, so that they can be memory-mapped and linked."""
    return isinstance(path, Path)


def local_path(path: UPath) -> Path:
    """The same place as a `pathlib.Path`.

    Raises:
        DataError: it is not local.
    """
    if isinstance(path, Path):
        return path
    raise DataError(f"{path} is not a local path; this step needs one")


def write_bytes(path: UPath, data: bytes) -> None:
    """Write a file whole or not at all, with its folders.

    Local files are written beside their place and renamed; an object store's put is atomic by itself.
    """
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
