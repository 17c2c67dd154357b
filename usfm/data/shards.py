"""Shards on disk: Arrow IPC files by split, organ, source and device, and the index that names them.

shards/
index.json                             schema version, fingerprint of the rows, `prepare`, one entry per file
train/breast/busbra_breast/00000.arrow rows of `ROW_SCHEMA`, uncompressed (images are), memory-mapped
val/..., test/...
ledger.json, ledger.csv                licences and provenance, counted
quarantine.csv                         what was refused, and why
splits.csv                             the split of every patient group
text_report.csv                        rows with burned-in text: what a person should look at
ingest.json                            what `usfm ingest` knows its own work by
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from usfm.data.location import Location, is_local, locate, write_bytes, writing
from usfm.data.patience import patiently
from usfm.data.schema import ROW_SCHEMA, SCHEMA_VERSION
from usfm.errors import ShardError

__all__ = ["INDEX_NAME", "ShardFile", "ShardIndex", "write_index", "write_shard"]

INDEX_NAME = "index.json"
INDEX_PATIENCE_S = 20.0
"""A person waits for the index: no credentials and no network show here."""


@dataclass(frozen=True)
class ShardFile:
    """One shard: `path` relative to the root, all its rows of one split, organ, source and device.

    `licences` are those of its rows, in name order.
    """

    path: str
    split: str
    organ: str
    rows: int
    bytes: int
    sha256: str
    source: str = ""
    device: str = ""
    licences: list[str] = field(default_factory=list)


def write_shard(
    root: Location,
    name: str,
    split: str,
    organ: str,
    rows: pa.Table,
    source: str = "",
    device: str = "",
) -> ShardFile:
    """Write one shard (a killed writer leaves no half file) and say what was written."""
    with writing(locate(root) / name) as stream:
        measured = _Measured(stream)
        with pa.ipc.new_file(measured, ROW_SCHEMA) as writer:
            # one record batch per file: row r of the file is row r of the batch, without a search
            for batch in rows.cast(ROW_SCHEMA).combine_chunks().to_batches():
                writer.write_batch(batch)
    licences = sorted(filter(None, pc.unique(rows["licence"]).to_pylist()))
    digest = measured.digest.hexdigest()
    return ShardFile(name, split, organ, rows.num_rows, measured.bytes, digest, source, device, licences)


def write_index(
    root: Location,
    fingerprint: str,
    files: Iterable[ShardFile],
    prepare: Mapping[str, Any] | None = None,
) -> None:
    """Write `index.json` last and atomically: shards without it are not a data set."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "prepare": dict(prepare or {}),
        "files": [asdict(file) for file in files],
    }
    write_bytes(locate(root) / INDEX_NAME, (json.dumps(document, indent=1) + "\n").encode())


class _Measured:
    """A stream that counts and hashes what passes, so that nothing is read again."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        self._stream.write(data)
        return len(data)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:  # the stream's owner closes it
        self.closed = True


@dataclass(frozen=True)
class ShardIndex:
    """The index of a set of shards: `fingerprint` names the ingest, `prepare` says how items became rows."""

    root: UPath
    fingerprint: str
    files: tuple[ShardFile, ...]
    prepare: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Location) -> "ShardIndex":
        """Read `root/index.json`.

        Raises:
            ShardError: no index there, not readable, or of another schema version.
            EnvironmentProblem: a storage that does not answer.
        """
        path = locate(root) / INDEX_NAME
        try:
            if is_local(path):
                text = path.read_text(encoding="utf-8")
            else:
                text = patiently(path.read_text, str(path), INDEX_PATIENCE_S)
            document = json.loads(text)
            files = tuple(ShardFile(**entry) for entry in document["files"])
            version, fingerprint = document["schema_version"], document["fingerprint"]
        except FileNotFoundError:
            raise ShardError(f"no shards at {root} ({INDEX_NAME} is missing); run `usfm ingest` first") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{path} is damaged ({error}); run `usfm ingest` again") from None
        if version != SCHEMA_VERSION:
            raise ShardError(
                f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}; run `usfm ingest` again"
            )
        return cls(locate(root), fingerprint, files, document.get("prepare", {}))

    def select(
        self, split: str, organs: Sequence[str] | None = None, exclude: Sequence[str] = ()
    ) -> dict[str, list[ShardFile]]:
        """Shards of a split by organ, organs in name order.

        Raises:
            ShardError: an organ that was asked for has no rows in the split, or nothing is left.
        """
        chosen: dict[str, list[ShardFile]] = {}
        for file in sorted(self.files, key=lambda f: (f.organ, f.path)):
            wanted = organs is None or file.organ in organs
            if file.split == split and wanted and file.organ not in exclude and file.rows:
                chosen.setdefault(file.organ, []).append(file)
        missing = sorted(set(organs or ()) - set(chosen) - set(exclude))
        if missing or not chosen:
            known = sorted({f.organ for f in self.files if f.split == split})
            wanted_text = ", ".join(missing) or "any organ"
            raise ShardError(f"no {split} rows of {wanted_text} in {self.root}; it holds {', '.join(known)}")
        return chosen
