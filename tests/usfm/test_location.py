import csv
import zipfile
from pathlib import Path

import pytest
from upath import UPath

from usfm.data.location import (
    absolute,
    files_below,
    is_local,
    local_path,
    locate,
    remove_tree,
    write_bytes,
    write_table,
    writing,
)
from usfm.data.stamps import Stamps
from usfm.errors import DataError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("heart/a.png", b"one")
        made.writestr("heart/p1/b.png", b"three")
    return tmp_path / "a.zip"


@pytest.fixture
def memory() -> UPath:
    """A folder of fsspec's file system in memory: behaves as an object store does."""
    root = locate("memory://bucket/shards")
    remove_tree(root)
    return root


def test_a_local_path_is_a_path(tmp_path: Path) -> None:
    for location in (tmp_path, str(tmp_path), locate(tmp_path)):
        assert locate(location) == tmp_path
        assert is_local(locate(location))
        assert local_path(locate(location)) == tmp_path
    remote = locate("s3://bucket/a")
    assert not is_local(remote)
    assert locate(remote) is remote
    assert str(locate(str(remote / "b"))) == "s3://bucket/a/b"
    with pytest.raises(DataError, match="s3://bucket/a is not a local path; this step needs one"):
        local_path(remote)


def test_a_zip_file_is_the_folder_inside_it(archive: Path) -> None:
    root = locate(archive)
    found = {
        path.relative_to(root).as_posix(): locate(str(path)).read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }
    assert found == {"heart/a.png": b"one", "heart/p1/b.png": b"three"}
    assert sorted(files_below(root)) == [("heart/a.png", 3), ("heart/p1/b.png", 5)]


def test_an_unknown_protocol_says_what_to_give() -> None:
    with pytest.raises(DataError, match="nosuch://a cannot be opened: .*give a local path or a URL that fsspec"):
        locate("nosuch://a")


def killed_half_way(path: UPath) -> None:
    with writing(path) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt


def test_writing_is_whole_or_not_at_all(tmp_path: Path, memory: UPath) -> None:
    for root in (locate(tmp_path / "out"), memory):
        path = root / "deep" / "file"
        with pytest.raises(KeyboardInterrupt):
            killed_half_way(path)
        assert list(files_below(root)) == []
        with writing(path) as stream:
            stream.write(b"whole")
        assert path.read_bytes() == b"whole"
        with pytest.raises(KeyboardInterrupt):
            killed_half_way(path)
        write_bytes(root / "other", b"12")
        assert sorted(files_below(root)) == [("deep/file", 5), ("other", 2)]
        assert path.read_bytes() == b"whole"


def test_tables_are_written_line_by_line(tmp_path: Path, memory: UPath) -> None:
    lines = [["a, b", 1], ['"quoted"', 2], ["ü\nnew line", 3]]
    for root in (locate(tmp_path), memory):
        assert write_table(root / "t.csv", ("name", "count"), iter(lines)) == 3
        with (root / "t.csv").open(encoding="utf-8", newline="") as stream:
            assert list(csv.reader(stream)) == [["name", "count"], *([a, str(b)] for a, b in lines)]
        assert b"\r" not in (root / "t.csv").read_bytes()
        with pytest.raises(ZeroDivisionError):
            write_table(root / "t.csv", ("name",), ([1 / n] for n in (1, 0)))
        assert [name for name, _ in files_below(root)] == ["t.csv"]


def test_a_tree_goes_whole_and_one_that_is_not_there_does_no_harm(tmp_path: Path, memory: UPath) -> None:
    for root in (locate(tmp_path / "out"), memory):
        write_bytes(root / "a" / "b", b"1")
        write_bytes(root / "c", b"1")
        remove_tree(root / "a")
        remove_tree(root / "nothing")
        assert list(files_below(root)) == [("c", 1)]
        assert list(files_below(root / "nothing")) == []


def test_stamps_tell_versions_of_a_file_apart(tmp_path: Path, archive: Path, memory: UPath) -> None:
    write_bytes(memory / "a.png", b"one")
    inside = str(locate(archive) / "heart" / "a.png")
    for location in (inside, str(memory / "a.png")):
        assert Stamps().of(location)[0] == 3
        assert Stamps().of(location) == Stamps().of(location)
        assert Stamps().of(location.replace("a.png", "z.png")) == []
        assert Stamps().of(location, content_known=True) == []
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("heart/a.png", b"two")
    changed = zipfile.ZipFile(archive).getinfo("heart/a.png").CRC
    (tmp_path / "b.zip").write_bytes(archive.read_bytes())  # fsspec keeps an open zip file's table of contents
    assert Stamps().of(str(locate(tmp_path / "b.zip") / "heart" / "a.png")) == [3, str(changed)]
    assert Stamps().of(str(tmp_path / "none")) == []


def test_stamps_ask_once_per_folder(memory: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write_bytes(memory / f"{number % 3}" / f"{number}.png", bytes(number))
    asked: list[str] = []
    listing = type(memory.fs).ls

    def counted(self: object, path: str, *args: object, **options: object) -> object:
        asked.append(path)
        return listing(self, path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(memory.fs), "ls", counted)
    stamps = Stamps()
    sizes = [stamps.of(str(memory / f"{number % 3}" / f"{number}.png"))[0] for number in range(30)]
    assert sizes == list(range(30))
    assert sorted(asked) == [f"/bucket/shards/{folder}" for folder in range(3)]


def test_places_for_other_processes_are_absolute_and_urls_stay() -> None:
    assert absolute("runs/shards") == str(Path("runs/shards").absolute())
    assert absolute("/data/x") == "/data/x"
    assert absolute("s3://bucket/shards") == "s3://bucket/shards"
    assert absolute("zip://::/data/x.zip") == "zip://::/data/x.zip"
