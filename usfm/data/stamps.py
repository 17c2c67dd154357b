"""Which bytes an item means, without reading them: what names an ingest and its fragments.

A local file is known by its size and time of change. Elsewhere one listing per folder gives size and ETag (or
checksum, or time) of all its files, since a question per file would cost a round trip each. Where the item states
a SHA-256, that is what its bytes are known by.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from upath import UPath

from usfm.data.location import locate
from usfm.data.schema import Item

__all__ = ["Stamps", "digest", "identity"]

FOLDERS = 8
"""Listings kept at a time: items come in the order of their names, images and masks from folders of their own."""
HEADERS, SAMPLES = ("mhd", "nhdr"), (".raw", ".zraw", ".raw.gz", ".RAW")
CONTENT_KEYS = ("ETag", "etag", "CRC", "md5Hash", "blob_id", "LastModified", "last_modified", "mtime", "mtimeMs")


class Stamps:
    """Sizes and versions of files, in constant memory."""

    def __init__(self) -> None:
        self._folders: OrderedDict[str, dict[str, list[object]]] = OrderedDict()

    def of(self, location: str, content_known: bool = False) -> list[object]:
        """What names the present bytes of a file; [] where there is none.

        Args:
            location: a local path or a URL.
            content_known: a checksum is stated elsewhere, so only the size counts (and only where it is free).
        """
        path = locate(location)
        if isinstance(path, Path):
            try:
                status = os.stat(path)
            except OSError:
                return []
            return [status.st_size] if content_known else [status.st_size, status.st_mtime_ns]
        return [] if content_known else self._listed(path.parent).get(path.path, [])

    def _listed(self, folder: UPath) -> dict[str, list[object]]:
        key = str(folder)
        if key in self._folders:
            self._folders.move_to_end(key)
            return self._folders[key]
        try:
            entries = folder.fs.ls(folder.path, detail=True)
        except FileNotFoundError:
            entries = []
        folder.fs.invalidate_cache()  # fsspec would keep every listing for ever
        self._folders[key] = {entry["name"]: _version(entry) for entry in entries if entry["type"] == "file"}
        if len(self._folders) > FOLDERS:
            self._folders.popitem(last=False)
        return self._folders[key]


def identity(item: Item, stamps: Stamps) -> list[object]:
    """What an item says and which bytes it means; knows nothing of where the archive lies."""
    places = ("path", "mask_path", "pair_path")
    values = {key: value for key, value in asdict(item).items() if key not in places}
    # a mask may be several files, "a|b"
    masks = [path for path in item.mask_path.split("|") if path]
    beside = [stamps.of(path) for path in [*masks, *([item.pair_path] if item.pair_path else [])]]
    samples = [stamps.of(path) for header in (item.path, *masks) for path in _samples(header)]
    return [values, stamps.of(item.path, bool(item.sha256)), beside, samples]


def _samples(header: str) -> list[str]:
    """Where the samples of a header file may lie; the usual names, so that the header need not be opened."""
    stem, dot, suffix = header.rpartition(".")
    return [stem + name for name in SAMPLES] if dot and suffix.lower() in HEADERS else []


def digest(parts: Iterable[object]) -> str:
    """A hash of JSON values, 32 hexadecimal digits; the parts are read one by one."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _version(entry: dict[str, Any]) -> list[object]:
    version = next((str(entry[key]) for key in CONTENT_KEYS if entry.get(key) is not None), "")
    return [entry.get("size"), version]
