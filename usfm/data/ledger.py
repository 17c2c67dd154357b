"""The ledger of licences and provenance: which rows came from where, under which terms."""

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from usfm.data.location import Location, locate, write_bytes, write_table

__all__ = ["LEDGER_CSV", "LEDGER_JSON", "Ledger", "licence_flags"]

LEDGER_JSON = "ledger.json"
LEDGER_CSV = "ledger.csv"
_FLAGS = {
    "NC": r"\bNC\b|non-?commercial",
    "SA": r"\bSA\b|share-?alike",
    "ND": r"\bND\b|no-?deriv",
}
_COLUMNS = ("source", "licence", "flags", "origin", "organs", "items", "rows", "bytes")


def licence_flags(licence: str) -> list[str]:
    """Terms that pass on to what is trained on such rows: NC non-commercial, SA share-alike, ND no derivatives."""
    return [flag for flag, pattern in _FLAGS.items() if re.search(pattern, licence, re.IGNORECASE)]


@dataclass
class _Entry:
    source: str
    licence: str
    origin: str
    flags: list[str]
    organs: dict[str, int] = field(default_factory=dict)  # rows by organ
    items: int = 0
    rows: int = 0
    bytes: int = 0  # of images, masks and pairs as stored


class Ledger:
    """Counts rows as they pass; an item's rows come one after the other."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        self._item = ""

    def add(self, row: dict[str, Any], size: int) -> None:
        """Count one row of `size` stored bytes."""
        key = (row["source"], row["licence"], row["origin"])
        if key not in self._entries:
            self._entries[key] = _Entry(*key, flags=licence_flags(row["licence"]))
        entry = self._entries[key]
        item = row["id"].rpartition("#")[0]
        entry.items += item != self._item
        self._item = item
        entry.rows += 1
        entry.bytes += size
        entry.organs[row["organ"]] = entry.organs.get(row["organ"], 0) + 1

    def document(self) -> dict[str, Any]:
        """`sources` in name order, totals by licence, and by flag."""
        sources = [asdict(self._entries[key]) for key in sorted(self._entries)]
        licences: dict[str, dict[str, Any]] = {}
        flags = {flag: {"items": 0, "rows": 0} for flag in _FLAGS}
        for entry in sources:
            entry["organs"] = dict(sorted(entry["organs"].items()))
            blank = {"flags": entry["flags"], "items": 0, "rows": 0, "bytes": 0}
            total = licences.setdefault(entry["licence"], blank)
            for name in ("items", "rows", "bytes"):
                total[name] += entry[name]
            for flag in entry["flags"]:
                flags[flag]["items"] += entry["items"]
                flags[flag]["rows"] += entry["rows"]
        return {"sources": sources, "licences": dict(sorted(licences.items())), "flags": flags}

    def write(self, output: Location) -> None:
        """Write `ledger.json` and `ledger.csv`, each atomically."""
        document, folder = self.document(), locate(output)
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        write_bytes(folder / LEDGER_JSON, text.encode())
        lines = [
            {**entry, "flags": " ".join(entry["flags"]), "organs": " ".join(entry["organs"])}
            for entry in document["sources"]
        ]
        write_table(folder / LEDGER_CSV, _COLUMNS, ([line[name] for name in _COLUMNS] for line in lines))
