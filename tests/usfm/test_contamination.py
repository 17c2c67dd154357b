import csv
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from card_factory import FINGERPRINT, card_row, picture, write_card_shards
from hypothesis import given
from hypothesis import strategies as st

from usfm.data import contamination
from usfm.data.cleaning.hashes import DuplicateConfig, perceptual_hash, thumbnail
from usfm.data.contamination import BandedIndex, find_matches, write_contamination
from usfm.data.hash_list import HASH_COLUMNS, Hashed, hash_items, hash_shards, read_hash_list, write_hash_list
from usfm.data.prepare import PrepareConfig, prepare
from usfm.data.schema import Item, Rejected
from usfm.data.shards import ShardIndex
from usfm.errors import DataError

DEFAULT = DuplicateConfig()
HASH, PHASH, THUMBNAIL = "ab" * 32, "0123456789abcdef", "07" * 256


def hashed(name: str, pixels: np.ndarray | None = None, sha256: bytes = b"") -> Hashed:
    if pixels is None:
        return Hashed(name, sha256, None, b"")
    return Hashed(name, sha256, perceptual_hash(pixels) & (1 << 64) - 1, thumbnail(pixels))


def look(tmp_path: Path, rows: list[dict], entries: list[Hashed], config: DuplicateConfig = DEFAULT) -> list:
    index = ShardIndex.load(write_card_shards(tmp_path / "shards", rows))
    write_hash_list(tmp_path / "list.csv", entries)
    return list(find_matches(index, read_hash_list(tmp_path / "list.csv"), config))


# words that share many bits, so that some pairs are near and many share a band
WORDS = st.builds(
    lambda base, flips: base ^ sum(1 << bit for bit in flips),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
    st.sets(st.integers(0, 63), max_size=12),
)


@given(st.lists(WORDS, max_size=30), st.lists(WORDS, max_size=30), st.integers(0, 7))
def test_bands_find_what_comparing_all_pairs_finds(listed: list[int], queries: list[int], distance: int) -> None:
    index = BandedIndex(np.array(listed, np.uint64), distance)
    parts = list(index.pairs(np.array(queries, np.uint64)))
    found = [tuple(pair) for part in parts for pair in part.tolist()]
    wanted = [
        (q, line, (query ^ word).bit_count())
        for q, query in enumerate(queries)
        for line, word in enumerate(listed)
        if (query ^ word).bit_count() <= distance
    ]
    assert found == sorted(wanted, key=lambda pair: (pair[0], pair[2], pair[1]))


def test_a_list_of_equal_images_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "PAIRS", 100)
    index = BandedIndex(np.full(60, 5, np.uint64), 2)
    parts = list(index.pairs(np.full(7, 5, np.uint64)))
    assert len(parts) == 7
    assert sum(len(part) for part in parts) == 7 * 60


def test_equal_files_similar_pictures_and_others_are_told_apart(tmp_path: Path) -> None:
    base, other = picture(1), picture(2)
    brighter = cv2.convertScaleAbs(base, alpha=0.9, beta=12)
    rows = [
        card_row("same.png#0", other, source_sha256=HASH),
        card_row("similar.png#0", brighter, split="val"),
        card_row("neither.png#0", picture(3)),
    ]
    entries = [hashed("bench/1", picture(4), bytes.fromhex(HASH)), hashed("bench/2", base), hashed("bench/3")]
    found = look(tmp_path, rows, entries[:2])
    assert [(match.id, match.split, match.kind, match.listed) for match in found] == [
        ("a/same.png#0", "train", "exact", "bench/1"),
        ("a/similar.png#0", "val", "near", "bench/2"),
    ]
    assert found[1].distance <= DuplicateConfig().max_distance


def test_what_was_switched_off_is_not_looked_for(tmp_path: Path) -> None:
    rows = [card_row("same.png#0", picture(2), source_sha256=HASH), card_row("similar.png#0", picture(1))]
    entries = [hashed("1", sha256=bytes.fromhex(HASH)), hashed("2", picture(1))]
    assert [m.kind for m in look(tmp_path / "1", rows, entries, DuplicateConfig(near=False))] == ["exact"]
    assert [m.kind for m in look(tmp_path / "2", rows, entries, DuplicateConfig(exact=False))] == ["near"]


def test_equal_hashes_of_unlike_thumbnails_do_not_match(tmp_path: Path) -> None:
    row = card_row("x.png#0", picture(1))
    entry = dataclasses.replace(hashed("bench", picture(1)), thumbnail=thumbnail(picture(9)))
    assert look(tmp_path, [row], [entry]) == []


def test_rows_without_hashes_match_no_black_image(tmp_path: Path) -> None:
    row = card_row("x.png#0", picture(1), phash=0, thumbnail=bytes(256))
    black = Hashed("black", b"", 0, bytes(256))
    assert look(tmp_path, [row], [black]) == []


def test_each_frame_of_a_clip_finds_its_own_line(tmp_path: Path) -> None:
    rows = [card_row(f"clip.mp4#{n}", picture(n), source_sha256=HASH, frame=n) for n in range(4)]
    entries = [hashed(f"frame {n}", picture(n), bytes.fromhex(HASH)) for n in reversed(range(4))]
    found = look(tmp_path, rows, entries)
    assert [(match.kind, match.listed, match.distance) for match in found] == [
        ("exact", f"frame {n}", 0) for n in range(4)
    ]


def test_the_summary_counts_what_the_table_lists(tmp_path: Path) -> None:
    rows = [
        card_row(f"{organ}{split}{n}.png#0", picture(n), organ=organ, split=split)
        for organ in ("heart", "liver") for split in ("train", "test") for n in range(3)
    ]  # fmt: skip
    index = ShardIndex.load(write_card_shards(tmp_path / "shards", rows))
    write_hash_list(tmp_path / "list.csv", [hashed("one", picture(0)), hashed("two", picture(77))])
    done = []
    listed = read_hash_list(tmp_path / "list.csv")
    summary = write_contamination(index, listed, "bench", DuplicateConfig(), advance=done.append)
    folder = tmp_path / "shards" / "contamination"
    assert json.loads((folder / "bench.json").read_text()) == summary
    of = {"heart": {"exact": 0, "near": 1}, "liver": {"exact": 0, "near": 1}}
    assert summary == {
        "name": "bench", "fingerprint": FINGERPRINT, "rows": 12, "lines": 2, "lines_found": 1, "exact": 0,
        "near": 4, "train_rows": 2, "by": {"test": of, "train": of},
    }  # fmt: skip
    with (folder / "bench.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [line["listed"] for line in table] == ["one"] * 4
    assert sum(done) == 12


def test_the_summary_of_nothing_found_is_written_too(tmp_path: Path) -> None:
    index = ShardIndex.load(write_card_shards(tmp_path / "shards", [card_row("x.png#0", picture(1))]))
    write_hash_list(tmp_path / "list.csv", [hashed("far", picture(2))])
    listed = read_hash_list(tmp_path / "list.csv")
    summary = write_contamination(index, listed, "bench", DuplicateConfig(), tmp_path / "out")
    assert (summary["train_rows"], summary["lines_found"], summary["by"]) == (0, 0, {})
    assert (tmp_path / "out" / "bench.csv").read_text().splitlines() == [
        "id,split,organ,source,kind,listed,distance"
    ]


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    names = ["plain", 'with "quotes", commas', "two\nlines", "ümläut", " spaces "]
    entries = [hashed(name, picture(n), bytes([n]) * 32) for n, name in enumerate(names)]
    entries += [hashed("file alone", sha256=b"\xff" * 32), hashed("picture alone", picture(9))]
    assert write_hash_list(tmp_path / "list.csv", entries) == 7
    listed = read_hash_list(tmp_path / "list.csv")
    assert [name.strip() for name in listed.names] == [entry.name.strip() for entry in entries]
    assert listed.known.tolist() == [True] * 5 + [False, True]
    for n, entry in enumerate(entries):
        if entry.phash is not None:
            assert int(listed.phash[n]) == entry.phash
            assert listed.thumbnail[n].tobytes() == entry.thumbnail
        if entry.sha256:
            assert listed.sha256[entry.sha256] == [n]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,sha256\nx,\n", "lacks the columns phash, thumbnail"),
        ("name,sha256,phash,thumbnail\n", "holds no line"),
        ("name,sha256,phash,thumbnail\nx,abc,,\n", "line 2: sha256 has 3 characters; expected 64"),
        (f"name,sha256,phash,thumbnail\nx,{'zz' * 32},,\n", "line 2 is not hexadecimal"),
        (f"name,sha256,phash,thumbnail\nx,,{PHASH},\n", "belong together"),
        ("name,sha256,phash,thumbnail\nx,,,\n", "neither a sha256 nor a phash"),
        ("\x00\x01\udcff", "UTF-8"),
    ],
)
def test_a_list_that_is_none_is_refused_with_the_line(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=problem):
        read_hash_list(path)


def test_a_missing_list_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="usfm data hashes"):
        read_hash_list(tmp_path / "list.csv")


def test_further_columns_and_upper_case_are_read(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"split,{','.join(HASH_COLUMNS)}\ntest,x,{HASH.upper()},{PHASH.upper()},{THUMBNAIL}\n")
    listed = read_hash_list(path)
    assert listed.sha256 == {bytes.fromhex(HASH): [0]}
    assert listed.phash.tolist() == [int(PHASH, 16)]


def test_the_hashes_of_shards_are_their_columns(tmp_path: Path) -> None:
    rows = [card_row(f"{n}.png#0", picture(n), split=split) for n, split in enumerate(["test", "train", "train"])]
    root = write_card_shards(tmp_path, rows)
    found = {entry.name: entry for entry in hash_shards(root)}
    assert {entry.name for entry in hash_shards(root, "test")} == {"a/0.png#0"}
    for row in rows:
        entry = found[row["id"]]
        assert entry.sha256.hex() == row["source_sha256"]
        assert entry.phash == row["phash"] & (1 << 64) - 1
        assert entry.thumbnail == row["thumbnail"]


def test_the_hashes_of_an_archive_are_those_of_ingest_in_order(tmp_path: Path) -> None:
    items: list[Item | Rejected] = []
    for n in range(5):
        path = tmp_path / f"{n}.png"
        path.write_bytes(cv2.imencode(".png", picture(n, 90, 120))[1].tobytes())
        items.append(Item(str(path), path.name, "heart", source="bench"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    items.insert(2, Item(str(tmp_path / "broken.png"), "broken.png", "heart", source="bench"))
    items.append(Rejected("notes.txt", "bench", "ignored", "no medium"))
    refused: list[Rejected] = []
    found = list(hash_items(items, PrepareConfig(), refused.append, threads=3))
    assert [entry.name for entry in found] == [f"bench/{n}.png#0" for n in range(5)]
    assert sorted(entry.name for entry in refused) == ["broken.png", "notes.txt"]
    (row,), _ = prepare(items[0], PrepareConfig())
    assert (found[0].sha256.hex(), found[0].phash) == (row["source_sha256"], row["phash"] & (1 << 64) - 1)
    assert found[0].thumbnail == row["thumbnail"]
    assert any(found[0].thumbnail)
