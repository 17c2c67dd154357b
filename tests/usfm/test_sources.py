import csv
import os
import socket
import tracemalloc
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from usfm.data.location import locate
from usfm.data.schema import Item, Rejected
from usfm.data.sources.found import organ_name
from usfm.data.sources.names import MAX_NAME_BYTES
from usfm.data.sources.table import detect, find_items, list_items, open_archive
from usfm.data.sources.tree import walk
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
        find_items(path)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "it has none"), (b"\xff\xfe\x00path", "not a CSV text file in UTF-8")]
)
def test_manifest_that_is_no_table(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_items(touch(tmp_path / "manifest.csv", data))


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
        ({"path": "linked/outside.png"}, "leaves the archive's folder"),
        ({"path": "linked/missing.png"}, "leaves the archive's folder"),
        ({"path": "pipe.png"}, "a folder, pipe, socket or device"),
        ({"path": "sub"}, "a folder, pipe, socket or device"),
        ({"path": "a\nb.png"}, "a line break or another control character"),
        ({"path": "a\x85b.png"}, "a line break or another control character"),
        ({"path": "x" * 300 + ".png"}, "the path cannot be opened: File name too long"),
        ({"path": "x/" * 600}, "the name has 1199 bytes; at most 1024"),
        ({"path": "memory://x/a.png"}, "reads like a URL"),
        ({"path": "sub/data:,a.png"}, "reads like a URL"),
        ({"path": "zip::x.png"}, "reads like a URL"),
        ({"frame": "-1"}, "frame is '-1'; expected a number from 0"),
        ({"frame": "\u0661"}, "expected a number from 0"),
        ({"official_split": "dev"}, "official_split is 'dev'; expected train, val, test"),
    ],
)
def test_bad_manifest_line_is_refused_alone(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    root = tmp_path / "archive"
    touch(root / "good.png")
    (root / "link.png").symlink_to(touch(tmp_path / "outside.png"))
    (root / "linked").symlink_to(tmp_path)
    (root / "sub").mkdir()
    os.mkfifo(root / "pipe.png")
    found = find_items(write_manifest(root, [line("good.png"), {**line("good.png"), **change}]))
    assert [item.name for item in found.items] == ["good.png"]
    (entry,) = found.rejected
    assert entry.kind == "file"
    assert reason in entry.reason


def test_lines_in_another_encoding_are_refused_alone(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    table = touch(tmp_path / "manifest.csv", b"path,organ,source,licence,label\n")
    with table.open("ab") as stream:
        stream.write("a.png,liver,s,CC0-1.0,L\u00e4sion\n".encode("latin-1"))
        stream.write("k\u00e4se.png,liver,s,CC0-1.0,\n".encode("latin-1"))
        stream.write(b'a.png,liver,s,CC0-1.0,"' + b"x" * 200_000 + b'"\n')
        stream.write(b"\na.png,liver,s,CC0-1.0,fine\nshort,liver\n")
    found = find_items(table)
    assert [(item.name, item.label) for item in found.items] == [("a.png", "fine"), ("short", "")]
    assert [(entry.name, entry.reason.split(";")[0]) for entry in found.rejected] == [
        ("a.png", "label is not UTF-8"),
        ("k\\udce4se.png", "the name is not UTF-8"),
        ("manifest.csv, line 4", "not a CSV line: field larger than field limit (131072)"),
    ]


def test_missing_files_are_the_readers_affair(tmp_path: Path) -> None:
    found = find_items(write_manifest(tmp_path, [line("gone.png"), line("no/folder/gone.png")]))
    assert [item.name for item in found.items] == ["gone.png", "no/folder/gone.png"]


def test_mask_outside_costs_the_mask_only(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    touch(root / "a.png")
    found = find_items(write_manifest(root, [line("a.png", mask_path="../m.png", mask_kind="binary")]))
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
    found = find_items(root, "folder")
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


def test_what_is_no_file_is_refused_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    touch(root / "heart" / "a.png")
    (root / "heart" / "loop").symlink_to(root)
    (root / "heart" / "self").symlink_to("self")
    (root / "heart" / "broken.png").symlink_to("nowhere.png")
    (root / "heart" / "inside.png").symlink_to("a.png")
    (root / "heart" / "outside.png").symlink_to(touch(tmp_path / "secret.png"))
    (root / "lung").symlink_to("heart")
    os.mkfifo(root / "heart" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root / "heart")  # the path of a socket may have 108 bytes only
        listener.bind("socket.png")
        os.chdir(here)
        found = find_items(root, "folder")
    assert [item.name for item in found.items] == ["heart/a.png", "heart/inside.png"]
    reasons = {entry.name: entry.reason for entry in found.rejected}
    assert sorted(reasons) == [f"heart/{name}" for name in NO_FILES] + ["lung"]
    for name, reason in NO_FILES.items():
        assert reason in reasons[f"heart/{name}"]
    assert reasons["lung"] == "a link to a folder is not followed; copy the folder"


NO_FILES = {
    "broken.png": "a link that leads to no file",
    "loop": "a loop, not followed",
    "outside.png": "leaves the archive's folder",
    "pipe": "a pipe, socket or device",
    "self": "a link that cannot be followed: Too many levels of symbolic links",
    "socket.png": "a pipe, socket or device",
}


def test_names_that_no_table_can_hold_are_refused(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "archive")
    os.makedirs(root + b"/heart/\xff")
    for name in (b"a.png", b"two\nlines.png", b"k\xe4se.png", b"esc\x1b[2J.png", b"\xff/b.png", b"a::b.png"):
        with open(root + b"/heart/" + name, "wb") as stream:
            stream.write(PNG)
    deep = b"/heart"
    for _ in range(5):
        deep += b"/" + b"d" * 250
        os.mkdir(root + deep)
    found = find_items(tmp_path / "archive", "folder")
    assert [item.name for item in found.items] == ["heart/a.png"]
    reasons = {entry.name: entry.reason for entry in found.rejected}
    assert sorted(reasons)[:5] == [
        "heart/\\udcff",
        "heart/a::b.png",
        "heart/" + "d" * 250 + "...",
        "heart/esc\\x1b[2J.png",
        "heart/k\\udce4se.png",
    ]
    assert f"at most {MAX_NAME_BYTES} are taken" in reasons["heart/" + "d" * 250 + "..."]
    assert "line break" in reasons["heart/two\\nlines.png"]
    assert all("\n" not in name and name.encode() for name in reasons)


def test_hidden_and_leftover_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("heart/a.png", "__MACOSX/heart/._a.png", "heart/.b.png", ".trash/heart/c.png"):
        touch(tmp_path / name)
    found = find_items(tmp_path, "folder")
    assert ([item.name for item in found.items], found.rejected, found.ignored) == (["heart/a.png"], [], 0)


def test_folder_order_is_by_name(tmp_path: Path) -> None:
    names = [f"{organ}/{number}.png" for organ in ("b", "a", "c") for number in (10, 9, 1)]
    for name in names:
        touch(tmp_path / name)
    assert [item.name for item in find_items(tmp_path, "folder").items] == sorted(names)


def test_auto_prefers_a_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "heart" / "a.png")
    assert find_items(tmp_path).kind == "folder"
    write_manifest(tmp_path, [line("heart/a.png")])
    assert find_items(tmp_path).kind == "manifest"
    assert find_items(tmp_path, "folder").kind == "folder"


def test_listing_is_read_as_it_is_needed(tmp_path: Path) -> None:
    for number in range(50):
        touch(tmp_path / f"organ{number:02d}" / "a.png")
    folders = walk(locate(tmp_path))
    listing = list_items(tmp_path, "folder")
    first = next(listing.entries)
    (tmp_path / "organ49" / "a.png").rename(tmp_path / "organ49" / "b.png")
    assert isinstance(first, Item)
    assert first.name == "organ00/a.png"
    assert [entry.name for entry in listing.entries][-1] == "organ49/b.png"
    assert [folder.name for folder in islice(folders, 2)] == ["", "organ00"]


def peak_bytes(entries: Iterator[Item | Rejected]) -> int:
    tracemalloc.start()
    count = sum(1 for _ in entries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count
    return peak


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    peaks = {}
    for folders in (50, 250):
        for number in range(folders):
            for file in range(5):
                touch(tmp_path / f"tree{folders}" / "heart" / f"{number}" / f"{file}.png", b"")
        lines = tmp_path / f"lines{folders}"
        write_manifest(touch(lines / "a.png").parent, [line("a.png") for _ in range(folders * 20)])
        find_items(lines)  # once before: imports and caches
        peaks[folders] = [
            peak_bytes(list_items(lines).entries),
            peak_bytes(list_items(tmp_path / f"tree{folders}", "folder").entries),
        ]
    assert peaks[250][0] - peaks[50][0] < 4000 * 10  # bytes for each of 4,000 more lines: an item has hundreds
    assert peaks[250][1] - peaks[50][1] < 200 * 150  # bytes for each of 200 more names in one folder


def test_folders_are_listed_once_to_recognise_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "heart" / "a.png")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr("usfm.data.sources.tree.os.scandir", lambda path: listed.append(path) or scandir(path))
    assert detect(open_archive(tmp_path)) == "folder"
    assert listed.count(str(tmp_path / "heart")) <= 3  # the others are looks at the first files only


def test_zip_file_is_found_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "My Set.zip", "w") as archive:
        archive.writestr("heart/a.png", PNG)
        archive.writestr("../heart/up.png", PNG)
    monkeypatch.chdir(tmp_path)
    (item,) = find_items("My Set.zip").items
    assert (item.name, item.source) == ("heart/a.png", "My Set")
    monkeypatch.chdir("/")
    assert locate(item.path).read_bytes() == PNG


def test_manifest_url_may_not_leave_its_archive(tmp_path: Path) -> None:
    root = locate(f"memory://{tmp_path.name}/archive")
    root.mkdir(parents=True)
    lines = ["path,organ,source,licence,mask_path", "../a.png,liver,s,x,", "/b.png,liver,s,x,"]
    (root / "manifest.csv").write_text("\n".join([*lines, "c.png,liver,s,x,../m.png"]))
    found = find_items(str(root))
    assert [(item.name, item.mask_path) for item in found.items] == [("c.png", "")]
    assert [(entry.name, entry.kind) for entry in found.rejected] == [
        ("../a.png", "file"),
        ("/b.png", "file"),
        ("c.png", "mask"),
    ]


def test_nothing_that_fits_says_what_was_tried(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    with pytest.raises(
        DataError, match=r"fits no source: it has no manifest.csv, is none of busi, .*, hc18, .*DICOM"
    ):
        find_items(tmp_path)


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is one file; give a folder"):
        find_items(touch(tmp_path / "a.png"))
    with pytest.raises(DataError, match="cannot be opened as a zip file"):
        find_items(touch(tmp_path / "a.zip", b"no zip"))
    with pytest.raises(DataError, match="no input at"):
        find_items(tmp_path / "b.zip")
    with pytest.raises(DataError, match="is no folder|cannot be listed"):
        find_items(tmp_path / "a.png", "folder")
    with pytest.raises(DataError, match="no input at"):
        find_items(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="unknown source 'zip'; known: auto, manifest, folder, "):
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


def test_dicom_among_other_files_is_not_taken_for_a_tree_of_organs(tmp_path: Path) -> None:
    (tmp_path / "DOE^JANE").mkdir()
    (tmp_path / "DOE^JANE" / "report.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "DOE^JANE" / "IM1.dcm").write_bytes(b"")
    with pytest.raises(DataError, match="often carry patients' names: say source=dicom"):
        detect(open_archive(tmp_path))
    assert find_items(tmp_path, "folder").items[0].organ == "doe_jane"  # who says so, gets it
