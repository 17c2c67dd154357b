import csv
from pathlib import Path

import pytest

from usfm.data.sources.found import organ_name
from usfm.data.sources.table import find_items, folder_items, manifest_items
from usfm.errors import ConfigError, DataError

PNG = b"\x89PNG\r\n\x1a\n"


def write_manifest(root: Path, lines: list[dict[str, str]]) -> Path:
    path = root / "manifest.csv"
    names = list(dict.fromkeys(name for line in lines for name in line))
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, names, restval="")
        table.writeheader()
        table.writerows(lines)
    return path


def line(path: str, **more: str) -> dict[str, str]:
    return {"path": path, "organ": "Fetal Head", "source": "s", "licence": "CC0-1.0", **more}


def touch(path: Path, data: bytes = PNG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_manifest_lines_become_items_in_name_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "m.png"):
        touch(tmp_path / name)
    more = {"mask_path": "m.png", "mask_kind": "binary", "group": "p1", "spacing_mm": "0.25", "sha256": "AB"}
    found = find_items(write_manifest(tmp_path, [line("./b.png", label="x", **more), line("a.png")]))
    assert (found.kind, found.rejected, found.ignored) == ("manifest", [], 0)
    first, second = found.items
    assert (first.name, second.name) == ("a.png", "b.png")
    assert (first.spacing_mm, first.mask_path, first.group) == (None, "", "")
    assert second.path == str(tmp_path / "b.png")
    assert second.mask_path == str(tmp_path / "m.png")
    assert (second.organ, second.label, second.group) == ("fetal_head", "x", "p1")
    assert (second.spacing_mm, second.sha256, second.licence) == (0.25, "ab", "CC0-1.0")


def test_manifest_without_required_columns_names_them(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, [{"path": "a.png", "source": "s"}])
    with pytest.raises(DataError, match="lacks the columns organ, licence; it has path, source"):
        manifest_items(path)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "it has none"), (b"\xff\xfe\x00path", "not a CSV text file in UTF-8")]
)
def test_manifest_that_is_no_table(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        manifest_items(touch(tmp_path / "manifest.csv", data))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"organ": " "}, "states no organ"),
        ({"path": ""}, "states no path"),
        ({"spacing_mm": "wide"}, "spacing_mm is 'wide'; expected a number above 0"),
        ({"spacing_mm": "-1"}, "spacing_mm is '-1'"),
        ({"spacing_mm": "nan"}, "spacing_mm is 'nan'"),
        ({"path": "../outside.png"}, "leaves the archive's folder"),
        ({"path": "..\\outside.png"}, "leaves the archive's folder"),
        ({"path": "/etc/hostname"}, "leaves the archive's folder"),
        ({"path": "link.png"}, "leaves the archive's folder"),
    ],
)
def test_bad_manifest_line_is_refused_alone(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    root = tmp_path / "archive"
    touch(root / "good.png")
    (root / "link.png").symlink_to(touch(tmp_path / "outside.png"))
    found = manifest_items(write_manifest(root, [line("good.png"), {**line("good.png"), **change}]))
    assert [item.name for item in found.items] == ["good.png"]
    (entry,) = found.rejected
    assert entry.kind == "file"
    assert reason in entry.reason


def test_mask_outside_costs_the_mask_only(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    touch(root / "a.png")
    found = manifest_items(write_manifest(root, [line("a.png", mask_path="../m.png", mask_kind="binary")]))
    assert [item.mask_path for item in found.items] == [""]
    assert [(entry.name, entry.kind) for entry in found.rejected] == [("a.png", "mask")]


def test_folder_tree(tmp_path: Path) -> None:
    root = tmp_path / "my archive"
    for name in (
        "Heart/a.png",
        "Heart/a_mask.png",
        "Heart/lonely_mask.png",
        "heart/2CH ED/p1/b.jpg",
        "heart/2CH ED/p1/day 2/c.mp4",
        "lung/covid/d.dcm",
        "lung/notes.txt",
        "lung/.hidden.png",
        ".git/x.png",
        "top.png",
    ):
        touch(root / name)
    touch(root / "lung" / "1.2.840.7", b"\0" * 128 + b"DICM")
    touch(root / "lung" / "README", b"not an image")
    (root / "kidney").symlink_to(tmp_path)
    found = folder_items(root)
    assert [(i.name, i.organ, i.label, i.group) for i in found.items] == [
        ("Heart/a.png", "heart", "", ""),
        ("Heart/lonely_mask.png", "heart", "", ""),
        ("heart/2CH ED/p1/b.jpg", "heart", "2CH ED", "p1"),
        ("heart/2CH ED/p1/day 2/c.mp4", "heart", "2CH ED", "p1/day 2"),
        ("lung/1.2.840.7", "lung", "", ""),
        ("lung/covid/d.dcm", "lung", "covid", ""),
    ]
    assert (found.items[0].mask_path, found.items[0].mask_kind) == (str(root / "Heart/a_mask.png"), "binary png")
    assert {(i.source, i.licence) for i in found.items} == {("my archive", "not stated")}
    assert found.ignored == 2
    reasons = {entry.name: entry.reason for entry in found.rejected}
    assert set(reasons) == {"kidney", "top.png"}
    assert "link to a folder" in reasons["kidney"]
    assert "no organ folder" in reasons["top.png"]


def test_folder_order_is_by_name(tmp_path: Path) -> None:
    names = [f"{organ}/{number}.png" for organ in ("b", "a", "c") for number in (10, 9, 1)]
    for name in names:
        touch(tmp_path / name)
    assert [item.name for item in folder_items(tmp_path).items] == sorted(names)


def test_auto_prefers_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "heart" / "a.png")
    assert find_items(tmp_path).kind == "folder"
    write_manifest(tmp_path, [line("heart/a.png")])
    assert find_items(tmp_path).kind == "manifest"
    assert find_items(tmp_path, "folder").kind == "folder"


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no input at"):
        find_items(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="unknown source 'zip'; known: auto, manifest, folder"):
        find_items(tmp_path, "zip")


def test_organ_names_are_folder_names() -> None:
    assert [organ_name(text) for text in ("Fetal Head", " lymph-node ", "../..", "Ä")] == [
        "fetal_head",
        "lymph_node",
        "",
        "",
    ]


def test_real_manifest(corpus: Path) -> None:
    found = find_items(corpus)
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(found.items) == len(lines)
    assert found.rejected == []
    assert {item.organ for item in found.items} == {entry["organ"] for entry in lines}
