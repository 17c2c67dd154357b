"""The small columns of all rows in a file on local disk: where duplicates are found and splits are given.

Everything that has to know all rows at once happens here, in SQLite, so that memory stays flat; images never come
in. The table lives as long as one assembly.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from usfm.data.catalogue import open_scratch
from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.duplicates import near_duplicates
from usfm.data.location import locate
from usfm.data.schema import Rejected
from usfm.data.split import SPLIT_ORDER, SplitConfig, assign, position
from usfm.data.stamps import digest
from usfm.errors import ConfigError

__all__ = ["SPLITS_NAME", "Placed", "RowTable", "keep_stamp"]

SPLITS_NAME = "splits.csv"
COLUMNS = [
    *("id", "organ", "source", "device", "group", "label", "licence", "origin", "source_sha256", "frame"),
    *("text_px", "flags", "phash", "thumbnail", "official_split"),
]
_SCHEMA = """
CREATE TABLE fragments (number INTEGER PRIMARY KEY, key TEXT);
CREATE TABLE rows (seq INTEGER PRIMARY KEY, fragment INTEGER, at INTEGER, rank INTEGER, bytes INTEGER,
    id TEXT, organ TEXT, source TEXT, device TEXT, patient TEXT, label TEXT, licence TEXT, origin TEXT,
    sha TEXT, frame INTEGER, text_px INTEGER, flags TEXT, phash INTEGER, thumbnail BLOB, official INTEGER);
CREATE TABLE refused (name TEXT, source TEXT, kind TEXT, reason TEXT);
CREATE TABLE removed (seq INTEGER PRIMARY KEY, kept INTEGER, bits INTEGER);
CREATE TABLE patients (name TEXT PRIMARY KEY, split INTEGER) WITHOUT ROWID;
CREATE TABLE pinned (name TEXT PRIMARY KEY, split INTEGER) WITHOUT ROWID;
CREATE VIEW kept AS SELECT * FROM rows WHERE seq NOT IN (SELECT seq FROM removed);
"""
TRAIN = SPLIT_ORDER.index("train")
FREE = -1


@dataclass(frozen=True)
class Placed:
    """A kept row: where it waits (fragment key, row number there) and the shards where it belongs."""

    fragment: str
    at: int
    split: str
    organ: str
    source: str
    device: str
    licence: str
    bytes: int


class RowTable:
    """Rows in the order of their items; `seq` numbers them."""

    def __init__(self, folder: Path) -> None:
        """Make an empty table in an existing folder of local disk."""
        self._folder = folder
        self._database = open_scratch(folder / "rows.sqlite")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; remove it afterwards."""
        self._database.close()

    def add(self, key: str, rows: pa.Table, rejected: Iterable[Rejected]) -> None:
        """Take the small columns of the next fragment, and its refusals."""
        run = self._database.execute
        run("BEGIN")
        (fragment,) = run("INSERT INTO fragments (key) VALUES (?) RETURNING number", (key,)).fetchone()
        columns = rows.select(COLUMNS).to_pydict()
        masks = pc.is_valid(rows["mask"]).to_pylist()
        # of two alike rows the one with a mask is worth more, then the one with a label, then the first
        ranks = [2 * (not mask) + (not label) for mask, label in zip(masks, columns["label"], strict=True)]
        order = {"": 0, "train": 1, "val": 2, "test": 3}
        columns["official_split"] = [order.get(name or "", 0) for name in columns["official_split"]]
        first = [[fragment] * rows.num_rows, range(rows.num_rows), ranks, _stored_bytes(rows)]
        marks = ", ".join("?" * (len(first) + len(COLUMNS)))
        self._database.executemany(
            f"INSERT INTO rows VALUES (NULL, {marks})", zip(*first, *columns.values(), strict=True)
        )
        self.refuse(rejected)
        run("COMMIT")

    def refuse(self, entries: Iterable[Rejected]) -> None:
        """Note refusals for the quarantine table."""
        self._database.executemany("INSERT INTO refused VALUES (?, ?, ?, ?)", map(astuple, entries))

    def remove_duplicates(self, config: DuplicateConfig) -> None:
        """Leave out all but one of equal and of nearly equal rows; each goes to the quarantine with its reason."""
        run = self._database.execute
        run("BEGIN")
        same = "sha, frame" if config.exact else "id"  # ids stay unique in any case
        run(
            "INSERT INTO removed SELECT seq, first, NULL FROM (SELECT seq, FIRST_VALUE(seq) OVER "
            f"(PARTITION BY {same} ORDER BY rank, seq) AS first FROM rows) WHERE seq != first"
        )
        if config.near:
            wanted = self._database.cursor().execute("SELECT seq, phash, thumbnail FROM kept ORDER BY rank, seq")
            for found in near_duplicates(wanted, config, self._folder):
                run("INSERT INTO removed VALUES (?, ?, ?)", (found.row, found.kept, found.distance))
        run(
            "INSERT INTO refused SELECT substr(a.id, length(a.source) + 2), a.source, "
            "CASE WHEN bits IS NULL THEN 'duplicate' ELSE 'near_duplicate' END, "
            "CASE WHEN bits IS NULL THEN 'the same file and frame as ' || b.id || ', which was kept' "
            "ELSE 'looks like ' || b.id || ', which was kept; hashes differ in ' || bits || ' of 64 bits' END "
            "FROM removed JOIN rows AS a ON a.seq = removed.seq JOIN rows AS b ON b.seq = removed.kept"
        )
        run("COMMIT")

    def split(self, config: SplitConfig) -> None:
        """Give every patient group its split, see `usfm.data.split`.

        Raises:
            ConfigError: `config.keep` names no table of splits.
        """
        run = self._database.execute
        run("BEGIN")
        if config.keep:
            self._database.executemany("INSERT OR REPLACE INTO pinned VALUES (?, ?)", _pinned(config.keep))
        run("CREATE TEMP TABLE strata AS SELECT DISTINCT organ, label, patient FROM kept WHERE patient != ''")
        run("CREATE TEMP TABLE numbers (number INTEGER PRIMARY KEY, name TEXT UNIQUE, official INTEGER)")
        run(
            "INSERT INTO numbers (name, official) SELECT patient, MAX(official) FROM kept WHERE patient != '' "
            "GROUP BY patient ORDER BY patient"
        )
        positions, fixed = [], []
        for name, official, pinned in run(
            "SELECT n.name, official, pinned.split FROM numbers AS n LEFT JOIN pinned ON pinned.name = n.name "
            "ORDER BY number"
        ):
            positions.append(position(name, config.seed))
            stated = SPLIT_ORDER.index(("train", "val", "test")[official - 1]) if official else FREE
            fixed.append(pinned if pinned is not None else stated if config.official else FREE)
        strata = [
            *self._strata("organ", config.min_groups),  # first: an organ matters more than one of its labels
            *self._strata("organ, label", config.min_groups),
        ]
        splits = assign(np.array(positions), strata, np.array(fixed, np.int8), config)
        self._database.executemany(
            "INSERT INTO patients SELECT name, ? FROM numbers WHERE number = ?",
            ((int(split), number) for number, split in enumerate(splits, 1)),
        )
        run("COMMIT")
        self._official = config.official

    def placed(self) -> Iterator[Placed]:
        """Kept rows ordered by split, organ, source, device and item: the order of the shards."""
        rows = self._database.execute(
            f"SELECT key, at, {self._split_column()} AS s, organ, source, device, licence, bytes FROM kept "
            "JOIN fragments ON fragment = number LEFT JOIN patients ON patients.name = patient "
            "ORDER BY s, organ, source, device, seq"
        )
        for key, at, split, *rest in rows:
            yield Placed(key, at, SPLIT_ORDER[split], *rest)

    def ledger_rows(self) -> Iterator[dict[str, Any]]:
        """What the ledger counts of each kept row, in the order of items."""
        names = ("id", "source", "licence", "origin", "organ", "bytes")
        for values in self._database.execute(f"SELECT {', '.join(names)} FROM kept ORDER BY seq"):
            yield dict(zip(names, values, strict=True))

    def groups(self) -> Iterator[tuple[str, str, str, int]]:
        """(group, split, organs, rows) in the order of names."""
        rows = self._database.execute(
            "SELECT patient, split, organ, COUNT(*) FROM kept JOIN patients ON name = patient "
            "GROUP BY patient, organ ORDER BY patient, organ"
        )
        for (name, split), lines in groupby(rows, key=lambda line: line[:2]):
            parts = list(lines)
            organs = " ".join(organ for _, _, organ, _ in parts)
            yield name, SPLIT_ORDER[split], organs, sum(count for *_, count in parts)

    def with_text(self) -> Iterator[tuple[str, str, str, int, str]]:
        """(id, source, organ, text_px, flags) of kept rows in which text was found or stated, by id."""
        return iter(
            self._database.execute(
                "SELECT id, source, organ, text_px, flags FROM kept WHERE text_px > 0 "
                "OR instr(' ' || flags || ' ', ' text ') OR instr(' ' || flags || ' ', ' burned_in_stated ') "
                "ORDER BY id"
            )
        )

    def refused(self) -> Iterator[Rejected]:
        """All refusals, ordered by name."""
        for values in self._database.execute("SELECT * FROM refused ORDER BY name, source, kind, reason"):
            yield Rejected(*values)

    def refused_kinds(self) -> dict[str, int]:
        """Number of refusals by kind."""
        return dict(Counter(dict(self._database.execute("SELECT kind, COUNT(*) FROM refused GROUP BY kind"))))

    def _split_column(self) -> str:
        alone = f"CASE official WHEN 3 THEN {SPLIT_ORDER.index('test')} WHEN 2 THEN {SPLIT_ORDER.index('val')} "
        alone += f"ELSE {TRAIN} END"
        return f"COALESCE(patients.split, {alone if self._official else TRAIN})"

    def _strata(self, columns: str, min_groups: int) -> Iterator[npt.NDArray[np.int64]]:
        """Group numbers (from 0) of each stratum with enough groups, strata in the order of their names."""
        rows = self._database.execute(
            f"SELECT DISTINCT {columns}, number - 1 FROM strata JOIN numbers ON name = patient "
            f"ORDER BY {columns}, number"
        )
        for _, lines in groupby(rows, key=lambda line: line[:-1]):
            members = np.array([number for *_, number in lines], np.int64)
            if min_groups and len(members) >= min_groups:
                yield members


def keep_stamp(location: str) -> str:
    """A hash of the splits that `SplitConfig.keep` names, "" for "".

    Raises:
        ConfigError: there are none.
    """
    return digest(_pinned(location)) if location else ""


def _pinned(location: str) -> Iterator[tuple[str, int]]:
    path = locate(location)
    path = path if path.name.endswith(".csv") else path / SPLITS_NAME
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for line in csv.DictReader(stream):
                yield line["group"], SPLIT_ORDER.index(line["split"])
    except FileNotFoundError:
        raise ConfigError(f"split.keep: no {path}; give the folder of earlier shards, or leave it out") from None
    except (KeyError, ValueError) as error:
        raise ConfigError(f"split.keep: {path} is not a table of splits ({error})") from None


def _stored_bytes(rows: pa.Table) -> list[int]:
    sizes = [pc.fill_null(pc.binary_length(rows[name]), 0) for name in ("image", "mask", "pair")]
    total: list[int] = pc.add(pc.add(sizes[0], sizes[1]), sizes[2]).to_pylist()
    return total
