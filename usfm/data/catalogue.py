"""The catalogue: everything a source listed, in a file on local disk, read back in the order of names.

A source streams items in any order, as it finds them; the catalogue sorts them on disk, so that the order of a
directory listing or of a manifest's lines never changes the shards and memory stays flat for 10^7 items. One pass
then cuts the items into chunks, names each chunk by its content and the whole input by all of them.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from itertools import islice
from pathlib import Path, PurePosixPath

from usfm.data.fragments import Chunk
from usfm.data.schema import Item, Rejected
from usfm.data.stamps import Stamps, digest, identity

__all__ = ["Catalogue", "open_scratch"]

BATCH = 1000
_SCHEMA = """
CREATE TABLE items (name TEXT, source TEXT, organ TEXT, label TEXT, frame INTEGER, item TEXT);
CREATE TABLE refused (name TEXT, source TEXT, kind TEXT, reason TEXT);
CREATE TABLE chunks (number INTEGER PRIMARY KEY, key TEXT, items INTEGER);
"""
_ORDER = "name, source, organ, label, frame, item"


def open_scratch(file: Path) -> sqlite3.Connection:
    """An SQLite file that lives as long as one command: no journal, sorted on disk, 32 MB of memory at most."""
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "temp_store = FILE", "cache_size = -32000"):
        database.execute(f"PRAGMA {setting}")
    return database


class Catalogue:
    """Items and refusals of one input.

    Attributes:
        items: number of items kept.
        refused: number of refusals, those of kind "ignored" not counted.
        ignored: number of files that are no media.
        organs: items by organ, left-out organs included.
        suffixes: kept items by the suffix of their name, lower case.
    """

    def __init__(
        self, file: Path, entries: Iterable[Item | Rejected], exclude_organs: Collection[str] = ()
    ) -> None:
        """Read a source's stream to its end.

        Args:
            file: where the SQLite file goes; must not exist.
            entries: the stream.
            exclude_organs: items of these organs are counted and left out.
        """
        self._database = open_scratch(file)
        self._database.executescript(_SCHEMA)
        self.items = self.refused = self.ignored = 0
        self.organs: Counter[str] = Counter()
        self.suffixes: Counter[str] = Counter()
        kept = (entry for entry in map(_sound, entries) if self._counted(entry, exclude_organs))
        self._database.execute("BEGIN")
        while batch := list(islice(kept, BATCH)):
            items = [entry for entry in batch if isinstance(entry, Item)]
            refused = [astuple(entry) for entry in batch if isinstance(entry, Rejected)]
            self._database.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", map(_packed, items))
            self._database.executemany("INSERT INTO refused VALUES (?, ?, ?, ?)", refused)
        self._database.execute("CREATE INDEX by_name ON items (name, source, organ, label)")
        self._database.execute("COMMIT")

    def __iter__(self) -> Iterator[Item]:
        """Items ordered by (name, source, organ, label), then by frame."""
        for (text,) in self._database.execute(f"SELECT item FROM items ORDER BY {_ORDER}"):
            yield Item(*json.loads(text))

    def rejected(self) -> Iterator[Rejected]:
        """What the source refused, ordered by (name, source, kind, reason)."""
        for values in self._database.execute("SELECT * FROM refused ORDER BY name, source, kind, reason"):
            yield Rejected(*values)

    def cut(self, size: int, settings: str, more: Sequence[object] = ()) -> str:
        """Cut the items, in order, into chunks of at most `size`, and name each and the whole.

        Args:
            size: items per chunk; does not change the name of the whole.
            settings: what decides an item's rows beside the item, see `usfm.data.fragments.row_settings`.
            more: JSON values that decide the shards beside their rows.

        Returns:
            The name of this input with these settings: equal names mean equal shards.
        """
        stamps = Stamps()
        named = (digest([identity(item, stamps)]) for item in self)
        self._database.execute("DELETE FROM chunks")
        self._database.execute("BEGIN")

        def parts() -> Iterator[object]:
            yield [settings, *more]
            yield from ([entry.name, entry.source, entry.kind, entry.reason] for entry in self.rejected())
            while chunk := list(islice(named, size)):
                key = digest([settings, *chunk])
                self._database.execute("INSERT INTO chunks (key, items) VALUES (?, ?)", (key, len(chunk)))
                yield from chunk

        name = digest(parts())
        self._database.execute("COMMIT")
        return name

    def chunks(self) -> Iterator[Chunk]:
        """The chunks that `cut` made, in order."""
        items = iter(self)
        for key, count in self._database.execute("SELECT key, items FROM chunks ORDER BY number"):
            yield Chunk(key, tuple(islice(items, count)))

    def chunk_keys(self) -> Iterator[str]:
        """Their keys alone."""
        for (key,) in self._database.execute("SELECT key FROM chunks ORDER BY number"):
            yield key

    @property
    def chunk_count(self) -> int:
        """How many there are."""
        (count,) = self._database.execute("SELECT COUNT(*) FROM chunks").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file; remove it afterwards."""
        self._database.close()

    def _counted(self, entry: Item | Rejected, exclude_organs: Collection[str]) -> bool:
        """Count an entry; False if it is not to be kept."""
        if isinstance(entry, Rejected):
            self.ignored += entry.kind == "ignored"
            self.refused += entry.kind != "ignored"
            return entry.kind != "ignored"
        self.organs[entry.organ] += 1
        if entry.organ in exclude_organs:
            return False
        self.items += 1
        suffix = PurePosixPath(entry.name).suffix.lower()
        self.suffixes["" if suffix[1:].isdigit() else suffix] += 1  # DICOM files are named by numbers: 1.2.840.1
        return True


def _packed(item: Item) -> tuple[object, ...]:
    return (item.name, item.source, item.organ, item.label, item.frame, json.dumps(astuple(item)))


def _sound(entry: Item | Rejected) -> Item | Rejected:
    """The entry, or a refusal of one whose text cannot be stored (a file name in an old encoding)."""
    values = [getattr(entry, field.name) for field in fields(entry)]
    try:
        "\n".join(value for value in values if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        name, source = (text.encode("utf-8", "backslashreplace").decode() for text in (entry.name, entry.source))
        return Rejected(
            name, source, "file", "the name or a value of its entry is not valid UTF-8; rename the file"
        )
    return entry
