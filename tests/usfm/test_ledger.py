import csv
import json
from pathlib import Path

import pytest

from usfm.data.ledger import Ledger, licence_flags


def add(ledger: Ledger, name: str, frames: int, licence: str, organ: str = "heart", origin: str = "o") -> None:
    for frame in range(frames):
        row = {"id": f"s/{name}#{frame}", "source": "s", "licence": licence, "origin": origin, "organ": organ}
        ledger.add(row, 10 + frame)


def test_counts_items_rows_bytes_and_flags(tmp_path: Path) -> None:
    ledger = Ledger()
    add(ledger, "a.mp4", 3, "CC BY-NC 4.0")
    add(ledger, "b.png", 1, "CC BY-NC 4.0", organ="lung")
    add(ledger, "c.png", 1, "CC0", origin='a, "quoted" place')
    ledger.write(tmp_path)
    document = json.loads((tmp_path / "ledger.json").read_text(encoding="utf-8"))
    assert document["sources"] == [
        {"source": "s", "licence": "CC BY-NC 4.0", "origin": "o", "flags": ["NC"],
         "organs": {"heart": 3, "lung": 1}, "items": 2, "rows": 4, "bytes": 10 + 11 + 12 + 10},
        {"source": "s", "licence": "CC0", "origin": "a, \"quoted\" place", "flags": [],
         "organs": {"heart": 1}, "items": 1, "rows": 1, "bytes": 10},
    ]  # fmt: skip
    assert document["flags"] == {
        "NC": {"items": 2, "rows": 4},
        "SA": {"items": 0, "rows": 0},
        "ND": {"items": 0, "rows": 0},
    }
    assert {name: total["rows"] for name, total in document["licences"].items()} == {"CC BY-NC 4.0": 4, "CC0": 1}
    with (tmp_path / "ledger.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["origin"], line["organs"]) for line in lines] == [
        ("o", "heart lung"),
        ('a, "quoted" place', "heart"),
    ]
    assert b"\r" not in (tmp_path / "ledger.csv").read_bytes()


@pytest.mark.parametrize(
    ("licence", "flags"),
    [
        ("CC BY 4.0", []),
        ("CC BY-NC-SA 4.0", ["NC", "SA"]),
        ("CC-BY-NC-4.0", ["NC"]),
        ("cc by-sa 3.0", ["SA"]),
        ("CC BY-NC-ND 4.0", ["NC", "ND"]),
        ("research only, non-commercial", ["NC"]),
        ("Apache-2.0", []),
        ("SANCTIONED", []),
    ],
)
def test_licence_flags(licence: str, flags: list[str]) -> None:
    assert licence_flags(licence) == flags
