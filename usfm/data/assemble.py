"""Fragments to shards, in an order that only the items decide, with ledger, splits, quarantine table and index.

Two passes. The first takes the small columns of all fragments into a table on local disk, where duplicates are
found and splits are given. The second copies images, one shard at a time. So memory holds one shard, however large
the archive, and the result depends on rows and settings alone: not on chunks, workers, interruptions or place.
"""

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path

import pyarrow as pa
from upath import UPath

from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.fragments import fragment_path, read_fragment
from usfm.data.ledger import Ledger
from usfm.data.location import Location, files_below, forget_listings, is_local, locate, write_bytes, write_table
from usfm.data.prepare import PrepareConfig
from usfm.data.row_table import SPLITS_NAME, Placed, RowTable
from usfm.data.schema import ROW_SCHEMA, SPLITS, Rejected
from usfm.data.shards import INDEX_NAME, ShardFile, write_index, write_shard
from usfm.data.split import SplitConfig
from usfm.data.stamps import digest
from usfm.errors import ShardError

__all__ = ["INGEST_NAME", "QUARANTINE_NAME", "TEXT_NAME", "Assembled", "assemble", "existing", "read_quarantine"]

INGEST_NAME = "ingest.json"
QUARANTINE_NAME = "quarantine.csv"
QUARANTINE_COLUMNS = ("name", "source", "kind", "reason")
SPLITS_COLUMNS = ("group", "split", "organs", "rows")
TEXT_NAME = "text_report.csv"
TEXT_COLUMNS = ("id", "source", "organ", "text_px", "flags")
MAX_SHARD_BYTES = 256 << 20
"""Of images, masks and pairs: memory holds one shard while it is written."""
FETCHES = 8


@dataclass(frozen=True)
class Assembled:
    """What lies in the output: rows by organ and split, refusals by kind, rows that show burned-in text."""

    rows: dict[str, dict[str, int]]
    quarantined: dict[str, int]
    with_text: int = 0


@dataclass
class _Plan:
    """A shard before it is written: where its rows wait."""

    name: str
    split: str
    organ: str
    source: str
    device: str
    bytes: int = 0
    rows: list[tuple[str, int]] = field(default_factory=list)  # fragment key, row number there


def existing(output: Location, inputs: str) -> Assembled | None:
    """The summary of shards that this very ingest made before, or None: there are none, or other ones."""
    root = locate(output)
    forget_listings(root)
    try:
        made = json.loads((root / INGEST_NAME).read_text(encoding="utf-8"))
        index = (root / INDEX_NAME).read_bytes()
        if made["inputs"] != inputs or made["index_sha256"] != hashlib.sha256(index).hexdigest():
            return None
        files = {file["path"]: file["bytes"] for file in json.loads(index)["files"]}
        there = dict(files_below(root))
        whole = all(there.get(path) == size for path, size in files.items()) and QUARANTINE_NAME in there
        return Assembled(made["rows"], made["quarantined"], made["with_text"]) if whole else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def assemble(
    keys: Iterable[str],
    output: Location,
    inputs: str,
    rows_per_shard: int,
    rejected: Iterable[Rejected] = (),
    *,
    prepare: PrepareConfig,
    split: SplitConfig,
    duplicates: DuplicateConfig,
) -> Assembled:
    """Write shards, ledger, tables and, last, the index; then remove what an earlier ingest left.

    The old index goes first: a killed run leaves no index rather than one that names wrong files.

    Args:
        keys: names of the finished fragments (in the output) in the order of their items.
        output: folder of the shards, on any location.
        inputs: name of this ingest's input and settings, for `existing`.
        rows_per_shard: a shard holds at most so many rows.
        rejected: what was refused before any file was read.
        prepare: how the items became rows; goes into the index.
        split: train, validation and test by patient group.
        duplicates: which rows count as duplicates.
    """
    root = locate(output)
    forget_listings(root)
    (root / INDEX_NAME).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="usfm-assemble-") as scratch:
        table = RowTable(Path(scratch))
        try:
            table.refuse(rejected)
            for key, rows, refused in _read_all(root, keys):
                table.add(key, rows, refused)
            table.remove_duplicates(duplicates)
            table.split(split)
            files = [_write(root, plan) for plan in _plans(table.placed(), rows_per_shard)]
            ledger = Ledger()
            for row in table.ledger_rows():
                ledger.add(row, row["bytes"])
            ledger.write(root)
            write_table(root / QUARANTINE_NAME, QUARANTINE_COLUMNS, (_line(entry) for entry in table.refused()))
            write_table(root / SPLITS_NAME, SPLITS_COLUMNS, table.groups())
            with_text = write_table(root / TEXT_NAME, TEXT_COLUMNS, table.with_text())
            made = Assembled(_count(files), table.refused_kinds(), with_text)
        finally:
            table.close()
    fingerprint = digest([prepare.model_dump(), [[file.path, file.sha256] for file in files]])
    write_index(root, fingerprint, files, prepare.model_dump())
    index_sha256 = hashlib.sha256((root / INDEX_NAME).read_bytes()).hexdigest()
    document = {"inputs": inputs, "index_sha256": index_sha256, **asdict(made)}
    write_bytes(root / INGEST_NAME, (json.dumps(document, indent=1) + "\n").encode())
    _remove_stale(root, {file.path for file in files})
    return made


def read_quarantine(output: Location) -> list[Rejected]:
    """The quarantine table of a set of shards, ordered by name.

    Raises:
        ShardError: there is none.
    """
    try:
        with (locate(output) / QUARANTINE_NAME).open(newline="", encoding="utf-8") as stream:
            return [Rejected(**line) for line in csv.DictReader(stream)]
    except FileNotFoundError:
        raise ShardError(f"no {QUARANTINE_NAME} in {output}; run `usfm ingest` first") from None


def _read_all(root: UPath, keys: Iterable[str]) -> Iterator[tuple[str, pa.Table, list[Rejected]]]:
    """Every fragment in order; remote ones are fetched some at a time."""
    stream = iter(keys)
    if is_local(root):
        for key in stream:
            yield (key, *read_fragment(fragment_path(root, key)))
        return
    with ThreadPoolExecutor(FETCHES) as pool:
        while batch := list(islice(stream, FETCHES)):
            for key, fragment in zip(
                batch, pool.map(lambda k: read_fragment(fragment_path(root, k)), batch), strict=True
            ):
                yield (key, *fragment)


def _plans(rows: Iterable[Placed], rows_per_shard: int) -> Iterator[_Plan]:
    """Rows cut into shards: one device each, numbered within split, organ and source."""
    for (split, organ, source), of_source in groupby(rows, key=lambda row: (row.split, row.organ, row.source)):
        number = 0
        plan: _Plan | None = None
        for row in of_source:
            full = plan and (len(plan.rows) == rows_per_shard or plan.bytes + row.bytes > MAX_SHARD_BYTES)
            if plan and (full or plan.device != row.device):
                yield plan
                plan = None
            if plan is None:
                name = f"{split}/{organ}/{_folder_name(source)}/{number:05d}.arrow"
                plan = _Plan(name, split, organ, source, row.device)
                number += 1
            plan.rows.append((row.fragment, row.at))
            plan.bytes += row.bytes
        if plan:
            yield plan


def _write(root: UPath, plan: _Plan) -> ShardFile:
    runs = [(key, [at for _, at in rows]) for key, rows in groupby(plan.rows, key=lambda row: row[0])]

    def taken(run: tuple[str, list[int]]) -> pa.Table:
        rows, _ = read_fragment(fragment_path(root, run[0]))
        return rows.select(ROW_SCHEMA.names).take(run[1])

    if is_local(root):
        parts = list(map(taken, runs))
    else:
        with ThreadPoolExecutor(FETCHES) as pool:
            parts = list(pool.map(taken, runs))
    rows = pa.concat_tables(parts).replace_schema_metadata(ROW_SCHEMA.metadata)
    at = ROW_SCHEMA.get_field_index("split")
    rows = rows.set_column(at, ROW_SCHEMA.field(at), pa.repeat(plan.split, rows.num_rows))
    return write_shard(root, plan.name, plan.split, plan.organ, rows, plan.source, plan.device)


def _folder_name(source: str) -> str:
    """A name that every file system takes; one that had to change gets a hash, so that no two meet."""
    plain = re.sub(r"[^a-z0-9._-]+", "_", source.lower()).strip("._") or "unnamed"
    return plain if plain == source else f"{plain}-{digest([source])[:6]}"


def _line(entry: Rejected) -> list[str]:
    return [entry.name, entry.source, entry.kind, entry.reason]


def _count(files: Iterable[ShardFile]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for file in files:
        of_organ = rows.setdefault(file.organ, dict.fromkeys(SPLITS, 0))
        of_organ[file.split] += file.rows
    return dict(sorted(rows.items()))


def _remove_stale(root: UPath, current: set[str]) -> None:
    """Remove shards and half-written files that the new index does not name."""
    for split in SPLITS:
        for name, _ in list(files_below(root / split)):
            path = f"{split}/{name}"
            if path not in current and path.endswith((".arrow", ".partial")):
                (root / path).unlink()
        if is_local(root):
            for folder in sorted((root / split).glob("**/"), reverse=True):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
