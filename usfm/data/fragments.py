"""Fragments: the finished rows and refusals of one chunk of items, one file each, named by their content.

A chunk's key is a hash of everything its rows depend on, so a file that exists is finished and right: a
killed ingest goes on where it was, and nothing needs a lock or a journal.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from usfm.config import Config
from usfm.data.prepare import DEFAULT_GROUP_KEY, GROUP_KEY_VARIABLE, PrepareConfig, Row, prepare
from usfm.data.schema import ROW_SCHEMA, Item, Rejected
from usfm.data.sources.table import Found
from usfm.data.split import SplitConfig

__all__ = ["FRAGMENTS", "Chunk", "fingerprint", "fragment_path", "make_chunks", "process_chunk", "read_fragment"]

FRAGMENTS = "fragments"
MAX_TRIES = 3
INGEST_VERSION = 2
"""Raise it when the same files and configuration would give other rows."""


@dataclass(frozen=True)
class Chunk:
    """Some items in order, and the key that names their fragment."""

    key: str
    items: tuple[Item, ...]


def make_chunks(items: Sequence[Item], size: int, prepare_config: PrepareConfig, split: SplitConfig) -> list[Chunk]:
    """Cut the items, in order, into chunks of at most `size`."""
    settings = _settings(prepare_config, split)
    chunks = []
    for start in range(0, len(items), size):
        part = tuple(items[start : start + size])
        chunks.append(Chunk(_hash([settings, *map(identity, part)]), part))
    return chunks


def fingerprint(found: Found, prepare_config: PrepareConfig, split: SplitConfig, rows_per_shard: int) -> str:
    """Names an ingest: equal fingerprints mean equal shards. It knows nothing of where the archive lies."""
    parts = [_settings(prepare_config, split), rows_per_shard, [asdict(r) for r in found.rejected]]
    return _hash([*parts, *map(identity, found.items)])


def identity(item: Item) -> list[object]:
    """What an item says and which bytes it means: SHA-256 where it is stated, else size and time of change."""
    values = {key: value for key, value in asdict(item).items() if key not in ("path", "mask_path")}
    stated = bool(item.sha256)
    return [values, _stamp(item.path, stated), _stamp(item.mask_path, False) if item.mask_path else None]


def process_chunk(chunk: Chunk, output: str | Path, prepare_config: PrepareConfig, split: SplitConfig) -> int:
    """Prepare a chunk's items and write its fragment atomically.

    A file can crash a decoder and take the whole process with it. So each item is noted in `<key>.tries`
    before it is read; one that was begun `MAX_TRIES` times and never finished is refused without reading.

    Returns:
        The number of rows.
    """
    rows: list[Row] = []
    rejected: list[Rejected] = []
    path = fragment_path(output, chunk)
    path.parent.mkdir(parents=True, exist_ok=True)
    tries = path.with_suffix(".tries")
    crashed = _crashed(tries)
    for number, item in enumerate(chunk.items):
        if number in crashed:
            reason = f"its decoder crashed {MAX_TRIES} times (the process ended); the file was not read again"
            rejected.append(Rejected(item.name, item.source, "file", reason))
            continue
        with tries.open("a") as stream:
            stream.write(f"begin {number}\n")
        new_rows, new_rejected = prepare(item, prepare_config)
        rows += new_rows
        rejected += new_rejected
        with tries.open("a") as stream:
            stream.write(f"end {number}\n")
    metadata = {"rejected": json.dumps([asdict(entry) for entry in rejected])}
    table = pa.Table.from_pylist(rows, ROW_SCHEMA).replace_schema_metadata(metadata)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # two tries of one task never share a file
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(partial, path)
    tries.unlink(missing_ok=True)
    return len(rows)


def fragment_path(output: str | Path, chunk: Chunk) -> Path:
    """Where a chunk's fragment lies."""
    return Path(output) / FRAGMENTS / f"{chunk.key}.arrow"


def read_fragment(path: Path) -> tuple[pa.Table, list[Rejected]]:
    """Rows (memory-mapped, not copied) and refusals of a fragment."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    entries = json.loads(table.schema.metadata[b"rejected"])
    return table, [Rejected(**entry) for entry in entries]


def _crashed(tries: Path) -> set[int]:
    """Numbers of the items that were begun `MAX_TRIES` times more often than they ended."""
    lines = tries.read_text().split("\n") if tries.is_file() else []
    open_tries: Counter[int] = Counter()
    for line in lines:
        word, _, number = line.partition(" ")
        if number.isdigit():
            open_tries[int(number)] += 1 if word == "begin" else -1
    return {number for number, count in open_tries.items() if count >= MAX_TRIES}


def _settings(prepare_config: Config, split: Config) -> list[object]:
    key = os.environ.get(GROUP_KEY_VARIABLE, DEFAULT_GROUP_KEY)
    return [INGEST_VERSION, prepare_config.model_dump(), split.model_dump(), _hash(["group key", key])]


def _stamp(path: str, content_known: bool) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size] if content_known else [status.st_size, status.st_mtime_ns]


def _hash(parts: Iterable[object]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
