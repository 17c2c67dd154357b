import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from usfm.data.schema import ROW_SCHEMA
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import INDEX_NAME, ShardFile, ShardIndex, write_index, write_shard
from usfm.errors import ShardError


def table(count: int, organ: str = "heart", split: str = "train") -> pa.Table:
    blank = dict.fromkeys(ROW_SCHEMA.names)
    rows = [
        {**blank, "id": f"s/{organ}#{i}", "organ": organ, "split": split, "image": bytes([i]) * (i + 1), "frame": i}
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, ROW_SCHEMA)


def write(root: Path) -> list[ShardFile]:
    parts = [("train", "heart", 5), ("train", "breast", 3), ("test", "heart", 2)]
    files = [write_shard(root, f"{s}/{o}/00000.arrow", s, o, table(n, o, s)) for s, o, n in parts]
    write_index(root, "abc", files)
    return files


def test_rows_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    files = write(tmp_path)
    reader = ShardReader(tmp_path)
    assert reader.index.fingerprint == "abc"
    assert list(reader.index.files) == files
    assert reader.table(files[:1]).equals(table(5))
    taken = reader.take(files[0].path, np.array([4, 0, 4]), ["image", "frame"])
    assert taken.to_pydict() == {"image": [bytes([4]) * 5, b"\0", bytes([4]) * 5], "frame": [4, 0, 4]}
    assert (files[0].rows, files[0].bytes) == (5, (tmp_path / files[0].path).stat().st_size)


def test_equal_rows_give_equal_bytes_however_they_are_chunked(tmp_path: Path) -> None:
    whole = write_shard(tmp_path, "a/a.arrow", "train", "heart", table(6))
    rows = table(6)
    pieces = write_shard(
        tmp_path, "a/b.arrow", "train", "heart", pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    )
    assert whole.sha256 == pieces.sha256
    assert not list(tmp_path.rglob("*.partial"))


def test_select_by_organ(tmp_path: Path) -> None:
    write(tmp_path)
    index = ShardIndex.load(tmp_path)
    assert list(index.select("train")) == ["breast", "heart"]
    assert list(index.select("train", ["heart"])) == ["heart"]
    assert list(index.select("train", exclude=["heart"])) == ["breast"]
    with pytest.raises(ShardError, match="no test rows of breast in .*; it holds heart"):
        index.select("test", ["breast"])
    with pytest.raises(ShardError, match="no val rows of any organ"):
        index.select("val")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no shards at .*index.json is missing.*run `usfm ingest` first"),
        ("{", "is damaged"),
        ('{"files": []}', "is damaged"),
        ('{"schema_version": 99, "fingerprint": "", "files": []}', "has schema version 99, this code reads 2"),
    ],
)
def test_bad_index_says_what_to_do(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / INDEX_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ShardError, match=reason):
        ShardIndex.load(tmp_path)


def test_missing_or_damaged_shard_is_named(tmp_path: Path) -> None:
    files = write(tmp_path)
    (tmp_path / files[0].path).write_bytes(b"not arrow")
    (tmp_path / files[1].path).unlink()
    for file in files[:2]:
        with pytest.raises(ShardError, match=f"shard .*{file.path} cannot be read"):
            ShardReader(tmp_path).batch(file.path)


def test_index_is_plain_json(tmp_path: Path) -> None:
    files = write(tmp_path)
    document = json.loads((tmp_path / INDEX_NAME).read_text(encoding="utf-8"))
    assert [entry["path"] for entry in document["files"]] == [file.path for file in files]
