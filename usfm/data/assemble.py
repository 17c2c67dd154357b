"""Fragments to shards, in an order that only the items decide, with ledger, quarantine table and index.

Fragments are read once for their small columns; image bytes are copied only when a shard is full, so memory
holds one shard at a time, however large the archive (plus 16 bytes of hash per row to find duplicates).
"""

import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from usfm.data.fragments import read_fragment
from usfm.data.ledger import Ledger
from usfm.data.schema import ROW_SCHEMA, SPLITS, Rejected
from usfm.data.shards import INDEX_NAME, ShardFile, ShardIndex, write_index, write_shard
from usfm.errors import ShardError

__all__ = ["QUARANTINE_NAME", "Assembled", "assemble", "existing", "read_quarantine"]

QUARANTINE_NAME = "quarantine.csv"
QUARANTINE_COLUMNS = ("name", "source", "kind", "reason")
SMALL_COLUMNS = ["id", "split", "organ", "source", "licence", "origin", "source_sha256", "frame"]


@dataclass(frozen=True)
class Assembled:
    """What lies in the output: rows by organ and split, and the number of refusals by kind."""

    rows: dict[str, dict[str, int]]
    quarantined: dict[str, int]


@dataclass
class _Pending:
    """Rows of one split and organ that wait for their shard: (fragment, row) numbers, not bytes."""

    rows: list[tuple[int, int]] = field(default_factory=list)
    shards: int = 0


def existing(output: Path, fingerprint: str) -> Assembled | None:
    """The summary of shards that this very ingest made before, or None: there are none, or other ones."""
    try:
        index = ShardIndex.load(output)
    except ShardError:
        return None
    complete = all((output / file.path).is_file() for file in index.files)
    if index.fingerprint != fingerprint or not complete or not (output / QUARANTINE_NAME).is_file():
        return None
    return Assembled(_count(index.files), dict(Counter(entry.kind for entry in read_quarantine(output))))


def assemble(
    fragments: Sequence[Path],
    output: Path,
    fingerprint: str,
    rows_per_shard: int,
    rejected: Iterable[Rejected] = (),
) -> Assembled:
    """Write shards, ledger, quarantine table and, last, the index; then remove what an earlier ingest left.

    The old index goes first: a killed run leaves no index rather than one that names wrong files. A row
    whose source file and frame were seen before is a duplicate: the first stays, the others are quarantined.

    Args:
        fragments: finished fragments in the order of their items.
        output: folder of the shards.
        fingerprint: of this ingest.
        rows_per_shard: a shard holds at most so many rows.
        rejected: what was refused before any file was read.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / INDEX_NAME).unlink(missing_ok=True)
    files: list[ShardFile] = []
    kinds: Counter[str] = Counter()
    ledger = Ledger()
    pending: dict[tuple[str, str], _Pending] = defaultdict(_Pending)
    seen: dict[bytes, str] = {}
    partial = output / (QUARANTINE_NAME + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(QUARANTINE_COLUMNS)

        def refuse(entries: Iterable[Rejected]) -> None:
            for entry in entries:
                kinds[entry.kind] += 1
                table.writerow([entry.name, entry.source, entry.kind, entry.reason])

        refuse(rejected)
        for number, path in enumerate(fragments):
            rows, entries = read_fragment(path)
            refuse(entries)
            sizes = _image_bytes(rows)
            for at, row in enumerate(rows.select(SMALL_COLUMNS).to_pylist()):
                if first := _first_seen(seen, row):
                    refuse([_duplicate(row, first)])
                    continue
                ledger.add(row, sizes[at])
                place = pending[row["split"], row["organ"]]
                place.rows.append((number, at))
                if len(place.rows) == rows_per_shard:
                    files.append(_flush(output, row["split"], row["organ"], place, fragments))
        for (split, organ), place in pending.items():
            if place.rows:
                files.append(_flush(output, split, organ, place, fragments))
    os.replace(partial, output / QUARANTINE_NAME)
    files.sort(key=lambda file: (SPLITS.index(file.split), file.path))
    ledger.write(output)
    write_index(output, fingerprint, files)
    _remove_stale(output, {file.path for file in files})
    return Assembled(_count(files), dict(kinds))


def read_quarantine(output: str | Path) -> list[Rejected]:
    """The quarantine table of a set of shards.

    Raises:
        ShardError: there is none.
    """
    try:
        with (Path(output) / QUARANTINE_NAME).open(newline="", encoding="utf-8") as stream:
            return [Rejected(**line) for line in csv.DictReader(stream)]
    except FileNotFoundError:
        raise ShardError(f"no {QUARANTINE_NAME} in {output}; run `usfm ingest` first") from None


def _first_seen(seen: dict[bytes, str], row: dict[str, object]) -> str:
    """The id of the first row of the same source bytes and frame, "" if this is the first."""
    key = hashlib.blake2b(f"{row['source_sha256']}#{row['frame']}".encode(), digest_size=16).digest()
    if key in seen:
        return seen[key]
    seen[key] = str(row["id"])
    return ""


def _duplicate(row: dict[str, object], first: str) -> Rejected:
    name = str(row["id"]).removeprefix(f"{row['source']}/")
    return Rejected(name, str(row["source"]), "duplicate", f"the same file and frame as {first}, which was kept")


def _flush(output: Path, split: str, organ: str, place: _Pending, fragments: Sequence[Path]) -> ShardFile:
    parts = [read_fragment(fragments[number])[0].take(rows) for number, rows in _runs(place.rows)]
    name = f"{split}/{organ}/{place.shards:05d}.arrow"
    table = pa.concat_tables(parts).replace_schema_metadata(ROW_SCHEMA.metadata)
    file = write_shard(output, name, split, organ, table)
    place.rows, place.shards = [], place.shards + 1
    return file


def _runs(rows: Sequence[tuple[int, int]]) -> Iterator[tuple[int, list[int]]]:
    """Row numbers by fragment, in order."""
    by_fragment: dict[int, list[int]] = {}
    for number, at in rows:
        by_fragment.setdefault(number, []).append(at)
    yield from by_fragment.items()


def _image_bytes(rows: pa.Table) -> list[int]:
    image, mask = pc.binary_length(rows["image"]), pc.fill_null(pc.binary_length(rows["mask"]), 0)
    sizes: list[int] = pc.add(image, mask).to_pylist()
    return sizes


def _count(files: Iterable[ShardFile]) -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for file in files:
        of_organ = rows.setdefault(file.organ, dict.fromkeys(SPLITS, 0))
        of_organ[file.split] += file.rows
    return dict(sorted(rows.items()))


def _remove_stale(output: Path, current: set[str]) -> None:
    """Remove shards and half-written files that the new index does not name."""
    for split in SPLITS:
        for path in sorted((output / split).glob("*/*")):
            stale = path.suffix == ".arrow" and path.relative_to(output).as_posix() not in current
            if stale or path.suffix == ".partial":
                path.unlink()
        for folder in sorted((output / split).glob("*/")):
            if not any(folder.iterdir()):
                folder.rmdir()
