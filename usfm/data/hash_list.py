"""Hash lists: what the images of a benchmark are, without the images.

A list is a CSV file with one line per image: `name` (what its owner calls it), `sha256` (of the file's bytes,
64 hex digits), `phash` (perceptual hash, 16 hex digits) and `thumbnail` (16 x 16 grey levels, 512 hex digits).
Whoever owns a benchmark can publish it; whoever trains can then look for its images (`usfm.data.contamination`).
Either of the hash and the pair (phash, thumbnail) may be empty: such a line finds equal, or only similar, images.
"""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice

import numpy as np
import numpy.typing as npt

from usfm.data.location import Location, locate, writing
from usfm.data.prepare import PrepareConfig, Row, prepare
from usfm.data.schema import THUMBNAIL_PX, Item, Rejected
from usfm.data.shard_columns import shard_columns
from usfm.data.shards import ShardIndex
from usfm.errors import DataError

__all__ = ["HASH_COLUMNS", "Hashed", "HashList", "hash_items", "hash_shards", "read_hash_list", "write_hash_list"]

HASH_COLUMNS = ("name", "sha256", "phash", "thumbnail")
PIXELS = THUMBNAIL_PX**2
ITEMS_AT_ONCE = 64
_LENGTHS = {"sha256": 64, "phash": 16, "thumbnail": 2 * PIXELS}


@dataclass(frozen=True)
class Hashed:
    """The hashes of one image: 32 bytes, 64 bits and 256 grey levels; b"" or None = not known."""

    name: str
    sha256: bytes
    phash: int | None
    thumbnail: bytes


@dataclass(frozen=True)
class HashList:
    """A list in memory, about 600 bytes per line.

    Attributes:
        names: (N,) what the owner calls the images.
        sha256: line numbers by hash; the frames of one clip share theirs.
        known: (N,) bool, whether the line has a perceptual hash and a thumbnail.
        phash: (N,) uint64, 0 where not known.
        thumbnail: (N, 256) uint8, 0 where not known.
    """

    names: list[str]
    sha256: dict[bytes, list[int]]
    known: npt.NDArray[np.bool_]
    phash: npt.NDArray[np.uint64]
    thumbnail: npt.NDArray[np.uint8]


def write_hash_list(path: Location, entries: Iterable[Hashed]) -> int:
    """Write a list, whole or not at all; returns the number of lines."""
    count = 0
    with writing(locate(path)) as stream:
        text = TextIOWrapper(stream, encoding="utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(HASH_COLUMNS)
        for entry in entries:
            count += 1
            phash = "" if entry.phash is None else f"{entry.phash:016x}"
            table.writerow([entry.name, entry.sha256.hex(), phash, entry.thumbnail.hex()])
        text.detach()  # flushes; `writing` closes the stream itself
    return count


def read_hash_list(path: Location) -> HashList:
    """Read a list; further columns are allowed and ignored.

    Raises:
        DataError: no file, other columns, a line whose hashes are not what the header says, or no line at all.
    """
    names: list[str] = []
    digests: dict[bytes, list[int]] = {}
    known: list[bool] = []
    phashes: list[int] = []
    thumbnails = bytearray()
    try:
        with locate(path).open("r", encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            if missing := [name for name in HASH_COLUMNS if name not in (table.fieldnames or ())]:
                raise DataError(f"{path} is no hash list: it lacks the columns {', '.join(missing)}")
            for number, line in enumerate(table):
                entry = _parsed(line, f"{path}, line {table.line_num}")
                names.append(entry.name)
                if entry.sha256:
                    digests.setdefault(entry.sha256, []).append(number)
                known.append(entry.phash is not None)
                phashes.append(entry.phash or 0)
                thumbnails += entry.thumbnail or bytes(PIXELS)
    except FileNotFoundError:
        raise DataError(f"no hash list at {path}; `usfm data hashes` writes one") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV text file in UTF-8: {error}") from None
    if not names:
        raise DataError(f"{path} holds no line; a hash list has one line per image")
    pictures = np.frombuffer(bytes(thumbnails), np.uint8).reshape(-1, PIXELS)
    return HashList(names, digests, np.array(known), np.array(phashes, np.uint64), pictures)


def hash_shards(shards: Location, split: str = "") -> Iterator[Hashed]:
    """The hashes that shards hold, named by row id; `split` "" = all splits."""
    index = ShardIndex.load(shards)
    for file in index.files:
        if split in ("", file.split):
            batch = shard_columns(index.root, file, ("id", "source_sha256", "phash", "thumbnail"))
            yield from map(_of_row, batch.to_pylist())


def hash_items(
    entries: Iterable[Item | Rejected],
    config: PrepareConfig,
    refused: Callable[[Rejected], None],
    threads: int | None = None,
) -> Iterator[Hashed]:
    """The hashes of an archive's images, read and cleaned as ingest does, in the order of `entries`.

    Args:
        entries: what a source lists.
        config: as for the shards that the list will be held against; frames of clips are chosen by it.
        refused: called with whatever gives no image.
        threads: files read at the same time, None = one per CPU.
    """
    stream = iter(entries)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        while batch := list(islice(stream, ITEMS_AT_ONCE)):
            items = [entry for entry in batch if isinstance(entry, Item)]
            for entry in batch:
                if isinstance(entry, Rejected):
                    refused(entry)
            for rows, rejected in pool.map(lambda item: prepare(item, config), items):
                for problem in rejected:
                    refused(problem)
                yield from map(_of_row, rows)


def _of_row(row: Row) -> Hashed:
    thumbnail: bytes = row["thumbnail"]
    known = row["phash"] != 0 or any(thumbnail)  # both empty: an ingest that made no hashes
    phash = row["phash"] & (1 << 64) - 1 if known else None
    return Hashed(row["id"], bytes.fromhex(row["source_sha256"]), phash, thumbnail if known else b"")


def _parsed(line: dict[str, str | None], where: str) -> Hashed:
    text = {name: (line.get(name) or "").strip() for name in HASH_COLUMNS}
    for name, length in _LENGTHS.items():
        if text[name] and len(text[name]) != length:
            raise DataError(f"{where}: {name} has {len(text[name])} characters; expected {length} hex digits")
    if bool(text["phash"]) != bool(text["thumbnail"]):
        raise DataError(f"{where}: phash and thumbnail belong together; give both or none")
    if not text["sha256"] and not text["phash"]:
        raise DataError(f"{where}: neither a sha256 nor a phash; give at least one")
    try:
        phash = int(text["phash"], 16) if text["phash"] else None
        return Hashed(text["name"], bytes.fromhex(text["sha256"]), phash, bytes.fromhex(text["thumbnail"]))
    except ValueError as error:
        raise DataError(f"{where} is not hexadecimal: {error}") from None
