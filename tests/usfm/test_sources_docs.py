"""docs/sources.md: its table is that of the code, and its examples run."""

import re
from pathlib import Path
from typing import Any

import pytest
from source_miniatures import MINIATURES, OPTIONS, lay_out

from usfm.data.schema import Item
from usfm.data.sources import table
from usfm.data.sources.found import NOT_STATED, Source, SourceOptions
from usfm.data.sources.table import SOURCES, find_items

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sources.md"


def table_line(source: Source) -> str:
    """The line of a source in the page's table."""
    organ, licence = (source.organ or "by image", source.licence or NOT_STATED)
    cells = [f"`{source.name}`", source.title, *((organ, licence) if source.published else ("yours", "yours"))]
    return f"| {' | '.join(cells)} |"


def layout_block(source: Source) -> str:
    """The page's block with the layout of a source."""
    return f"`{source.name}`:\n\n```text\n{source.layout}\n```\n"


def block(word: str) -> str:
    """The page's Python block that holds a word."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (found,) = [text for text in blocks if word in text]
    return str(found)


def test_table_is_that_of_the_code() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert lines == [table_line(source) for source in SOURCES.values()]


def test_layouts_are_those_of_the_code() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Layouts\n\n")[2].partition("## ")[0]
    assert section == "\n".join(map(layout_block, SOURCES.values())) + "\n"


def test_names_of_the_table_are_those_of_the_sources() -> None:
    assert [source.name for source in SOURCES.values()] == list(SOURCES)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in SOURCES)


def test_own_source_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: dict[str, Any] = {}
    exec(block("SWEEPS"), module)
    monkeypatch.setitem(table.SOURCES, "sweeps", module["SWEEPS"])
    files = {"protocol.txt": b"text", "v7/heart_1.mp4": b"clip", "v7/liver_left_2.mp4": b"clip"}
    root = lay_out(files, "folder", tmp_path)
    found = find_items(root)
    assert (found.kind, found.rejected) == ("sweeps", [])
    assert found.items == [
        Item(
            path=f"{root}/v7/{organ}_{number}.mp4",
            name=f"v7/{organ}_{number}.mp4",
            organ=organ,
            label=f"sweep {number}",
            group="v7",
            source="sweeps",
            licence="internal",
        )
        for organ, number in (("heart", 1), ("liver_left", 2))
    ]
    (tmp_path / "archive" / "protocol.txt").unlink()
    assert find_items(root).kind == "folder"


def test_hashed_names_lead_back_to_files(tmp_path: Path) -> None:
    names: dict[str, Any] = {"archive": lay_out(MINIATURES["dicom"], "folder", tmp_path)}
    exec(block("paths ="), names)
    found = find_items(names["archive"], "dicom", SourceOptions(organ=OPTIONS["dicom"]))
    assert [str(names["paths"][item.name]) for item in found.items] == [item.path for item in found.items]
    assert {entry.name for entry in found.rejected} < names["paths"].keys()
