"""Fragments: the finished rows and refusals of one chunk of items, one file each, named by their content.

A chunk's key is a hash of everything its rows depend on, so a file that exists is finished and right: a
killed ingest goes on where it was, and nothing needs a lock or a journal. Fragments lie beside the shards, on any
location that all machines see.
"""

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from upath import UPath

from usfm.config import Config
from usfm.data.location import Location, locate, write_bytes, writing
from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig, Row, prepare
from usfm.data.schema import ROW_SCHEMA, Item, Rejected
from usfm.data.stamps import digest

__all__ = [
    "FRAGMENTS",
    "FRAGMENT_SCHEMA",
    "Chunk",
    "fragment_path",
    "process_chunk",
    "read_fragment",
    "row_settings",
]

FRAGMENTS = "fragments"
FRAGMENT_SCHEMA = ROW_SCHEMA.append(pa.field("official_split", pa.string()))
"""A row as it waits for its shard: what decides its split travels with it and is dropped there."""
MAX_TRIES = 3
INGEST_VERSION = 4
"""Raise it when the same files and configuration would give other rows."""


@dataclass(frozen=True)
class Chunk:
    """Some items in order, and the key that names their fragment."""

    key: str
    items: tuple[Item, ...]


def row_settings(config: Config) -> str:
    """A hash of all that decides an item's rows beside the item itself, the key of patient groups included."""
    group_key = os.environ.get(GROUP_KEY_VARIABLE, "")
    return digest([INGEST_VERSION, config.model_dump(), digest(["group key", group_key])])


def process_chunk(chunk: Chunk, output: Location, config: PrepareConfig, run: str = "") -> int:
    """Prepare a chunk's items and write its fragment atomically.

    Args:
        chunk: some items.
        output: location of the shards; the fragment goes below it.
        config: how items become rows.
        run: names this start of the ingest. A process that ended in another start was perhaps killed, so only
            ends in this one are held against an item.

    Returns:
        The number of rows.
    """
    rows: list[Row] = []
    rejected: list[Rejected] = []
    path = fragment_path(output, chunk.key)
    tries = _Tries(path.with_suffix(".tries"), run)
    for number, item in enumerate(chunk.items):
        if tries.hopeless(number):
            reason = f"the process ended {MAX_TRIES} times while it was read (its decoder crashed?); not read again"
            rejected.append(Rejected(item.name, item.source, "file", reason))
            continue
        tries.begin(number)
        new_rows, new_rejected = prepare(item, config)
        rows += ({**row, "official_split": item.official_split} for row in new_rows)
        rejected += new_rejected
        tries.end(number)
    metadata = {"rejected": json.dumps([asdict(entry) for entry in rejected])}
    table = pa.Table.from_pylist(rows, FRAGMENT_SCHEMA).replace_schema_metadata(metadata)
    with writing(path) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    tries.forget()
    return len(rows)


def fragment_path(output: Location, key: str) -> UPath:
    """Where a chunk's fragment lies."""
    return locate(output) / FRAGMENTS / f"{key}.arrow"


def read_fragment(path: UPath) -> tuple[pa.Table, list[Rejected]]:
    """Rows of `FRAGMENT_SCHEMA` and refusals of a fragment; a local one is memory-mapped, not copied."""
    source = pa.memory_map(str(path)) if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
    table = pa.ipc.open_file(source).read_all()
    entries = json.loads(table.schema.metadata[b"rejected"])
    return table, [Rejected(**entry) for entry in entries]


class _Tries:
    """Which items of a chunk were being read when the process ended.

    A file can crash a decoder and take the whole process with it. The first try of a chunk leaves one note; only
    a chunk that finds such a note (so its process ended half-way) notes every item before and after reading. An
    item that was begun `MAX_TRIES` times like that and never finished is hopeless. On an object store this costs
    one small put and one delete per chunk.
    """

    def __init__(self, path: UPath, run: str) -> None:
        self._path, self._run = path, run
        self._open: Counter[int] = Counter()
        try:
            before, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
            self._careful = before == f"run {run}"
            if self._careful:
                self._open.update({int(k): int(n) for k, n in (line.split() for line in lines)})
        except FileNotFoundError:
            self._careful = False
        self._write()

    def hopeless(self, number: int) -> bool:
        return self._open[number] >= MAX_TRIES

    def begin(self, number: int) -> None:
        self._open[number] += 1
        if self._careful:
            self._write()

    def end(self, number: int) -> None:
        del self._open[number]
        if self._careful:
            self._write()

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        text = f"run {self._run}\n" + "".join(f"{number} {count}\n" for number, count in sorted(self._open.items()))
        write_bytes(self._path, text.encode())
