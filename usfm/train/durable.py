"""Files and folders that are there whole after a crash or a power cut, or not at all."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["LEFTOVER", "publish_folder", "remove_folder", "replace_file", "sync", "write_text"]

LEFTOVER = ".partial"
"""Suffix of what a killed process may leave behind; such names start with a dot too, and nobody reads them."""


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems have no such promise for a folder; there is nothing to wait for then
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a text file; a reader sees the old content or the new one."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what `write` writes under another name; a reader sees the old content or the new one."""
    partial = path.with_name(f".{path.name}{LEFTOVER}")
    write(partial)
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def publish_folder(partial: Path, target: Path) -> None:
    """Give a finished flat folder its final name; what was there before goes, once the new one is in its place.

    Args:
        partial: the folder; its files are flushed to the disk first.
        target: the name that readers look for, in the same parent.
    """
    for file in partial.iterdir():
        sync(file)
    sync(partial)
    if target.exists():
        _set_aside(target)
    os.replace(partial, target)
    sync(target.parent)
    shutil.rmtree(_aside(target), ignore_errors=True)  # also what a kill between the two renames left


def remove_folder(folder: Path) -> None:
    """Remove a folder that readers look for: its name goes first, so nobody meets half of it."""
    shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    going = _aside(folder)
    shutil.rmtree(going, ignore_errors=True)
    os.replace(folder, going)
    return going


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.removed{LEFTOVER}")
