import csv
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from usfm.data.assemble import Assembled, assemble, existing, read_quarantine
from usfm.data.fragments import (
    Chunk,
    fingerprint,
    fragment_path,
    identity,
    make_chunks,
    process_chunk,
    read_fragment,
)
from usfm.data.ledger import licence_flags
from usfm.data.prepare import PrepareConfig, Rejected, prepare
from usfm.data.shards import ShardReader
from usfm.data.sources.table import Found, find_items
from usfm.data.split import SplitConfig

CONFIG, SPLIT = PrepareConfig(longest_side_px=64, max_frames=3), SplitConfig()
ROWS = 7


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and "fragments" not in path.parts)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ingest(found: Found, output: Path, size: int = 5, order: int = 1) -> tuple[Assembled, list[Chunk]]:
    """The whole path without Ray; `order` -1 processes the chunks backwards, as a scheduler might."""
    chunks = make_chunks(found.items, size, CONFIG, SPLIT)
    for chunk in chunks[::order]:
        process_chunk(chunk, output, CONFIG, SPLIT)
    fragments = [fragment_path(output, chunk) for chunk in chunks]
    return assemble(fragments, output, fingerprint(found, CONFIG, SPLIT, ROWS), ROWS, found.rejected), chunks


@pytest.fixture(scope="module")
def found(tiny_archive: Path) -> Found:
    return find_items(tiny_archive)


@pytest.fixture(scope="module")
def shards(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    ingest(found, output)
    return output


def test_every_row_once_in_item_order(found: Found, shards: Path) -> None:
    expected: dict[tuple[str, str], list[str]] = {}
    for item in found.items:
        for row in prepare(item, CONFIG, SPLIT)[0]:
            expected.setdefault((row["split"], row["organ"]), []).append(row["id"])
    reader = ShardReader(shards)
    got: dict[tuple[str, str], list[str]] = {}
    for file in reader.index.files:
        rows = reader.batch(file.path).to_pydict()
        assert set(rows["split"]) == {file.split}
        assert set(rows["organ"]) == {file.organ}
        got.setdefault((file.split, file.organ), []).extend(rows["id"])
    assert got == expected


def test_shards_are_full_and_bounded(shards: Path) -> None:
    files = ShardReader(shards).index.files
    for split, organ in {(file.split, file.organ) for file in files}:
        sizes = [file.rows for file in files if (file.split, file.organ) == (split, organ)]
        names = [file.path for file in files if (file.split, file.organ) == (split, organ)]
        assert all(size == ROWS for size in sizes[:-1])
        assert 1 <= sizes[-1] <= ROWS
        assert names == [f"{split}/{organ}/{number:05d}.arrow" for number in range(len(sizes))]


def test_no_group_is_in_two_splits(shards: Path) -> None:
    reader = ShardReader(shards)
    rows = reader.table(reader.index.files).to_pydict()
    splits: dict[str, set[str]] = {}
    for group, split in zip(rows["group"], rows["split"], strict=True):
        splits.setdefault(group, set()).add(split)
    assert len(splits) > 20
    assert {len(names) for group, names in splits.items() if group} == {1}
    assert splits.get("", {"train"}) == {"train"}


@pytest.mark.parametrize(("size", "order"), [(5, -1), (1, 1), (1000, 1)])
def test_neither_scheduling_nor_chunk_size_changes_a_byte(
    found: Found, shards: Path, tmp_path: Path, size: int, order: int
) -> None:
    ingest(found, tmp_path, size, order)
    assert digests(tmp_path) == digests(shards)


def test_killed_while_assembling(
    found: Found, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usfm.data import assemble as module

    whole, calls = module.write_shard, []

    def dies(*args: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(*args)  # type: ignore[arg-type]

    ingest(replace(found, items=found.items[:9]), tmp_path)  # an earlier ingest of other items
    assert (tmp_path / "index.json").exists()
    monkeypatch.setattr(module, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        ingest(found, tmp_path)
    assert not (tmp_path / "index.json").exists()
    monkeypatch.setattr(module, "write_shard", whole)
    ingest(found, tmp_path)
    assert digests(tmp_path) == digests(shards)


def test_rebuild_leaves_nothing_of_the_old(found: Found, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "again")
    (tmp_path / "again/train/heart/00000.partial").write_bytes(b"half")
    few = replace(found, items=[item for item in found.items if item.organ in ("nerve", "breast")])
    made, _ = ingest(few, tmp_path / "again")
    ingest(few, tmp_path / "fresh")
    assert digests(tmp_path / "again") == digests(tmp_path / "fresh")
    assert set(made.rows) == {"nerve", "breast"}
    assert not (tmp_path / "again/train/heart").exists()


def test_split_of_a_group_is_stable_when_data_is_added(found: Found, shards: Path, tmp_path: Path) -> None:
    ingest(replace(found, items=found.items[::2]), tmp_path)
    part, whole = ShardReader(tmp_path), ShardReader(shards)
    columns = ["id", "split"]
    before = dict(zip(*part.table(part.index.files).select(columns).to_pydict().values(), strict=True))
    after = dict(zip(*whole.table(whole.index.files).select(columns).to_pydict().values(), strict=True))
    assert len(before) < len(after)
    assert {name: after[name] for name in before} == before


def test_existing_knows_its_own_ingest_only(found: Found, shards: Path, tmp_path: Path) -> None:
    name = fingerprint(found, CONFIG, SPLIT, ROWS)
    again, _ = ingest(found, tmp_path)
    assert existing(shards, name) == again
    assert existing(shards, "another") is None
    assert existing(tmp_path / "nowhere", name) is None
    next((tmp_path / "train").rglob("*.arrow")).unlink()
    assert existing(tmp_path, name) is None


def test_fingerprint_sees_content_and_settings_but_not_the_place(found: Found, tmp_path: Path) -> None:
    name = fingerprint(found, CONFIG, SPLIT, ROWS)
    moved = tmp_path / "moved"
    shutil.copytree(found.root, moved, copy_function=shutil.copy2)
    assert fingerprint(find_items(moved), CONFIG, SPLIT, ROWS) == name
    assert fingerprint(found, CONFIG, SPLIT, ROWS + 1) != name
    assert fingerprint(found, PrepareConfig(), SPLIT, ROWS) != name
    assert fingerprint(found, CONFIG, SplitConfig(seed=1), ROWS) != name
    assert fingerprint(replace(found, items=found.items[1:]), CONFIG, SPLIT, ROWS) != name
    masked = next(item for item in found.items if item.mask_path)
    before = identity(replace(masked, mask_path=str(moved / "new.png")))
    (moved / "new.png").write_bytes(b"a new mask")
    assert identity(replace(masked, mask_path=str(moved / "new.png"))) != before
    unstated = replace(masked, sha256="")
    os.utime(moved / masked.name, ns=(1, 1))
    assert identity(unstated) != identity(replace(unstated, path=str(moved / masked.name)))


def test_duplicates_keep_the_first(found: Found, tmp_path: Path) -> None:
    chosen = [item for item in found.items if item.organ == "carotid"]
    copies = [replace(item, name="z/" + item.name, group="another patient") for item in chosen]
    made, _ = ingest(replace(found, items=chosen + copies), tmp_path)
    assert sum(made.rows["carotid"].values()) == len(chosen)
    assert made.quarantined == {"duplicate": len(chosen)}
    assert read_quarantine(tmp_path)[0] == Rejected(
        f"z/{chosen[0].name}#0",
        "simulator",
        "duplicate",
        f"the same file and frame as simulator/{chosen[0].name}#0, which was kept",
    )


def test_quarantine_table_is_exact(found: Found, tmp_path: Path) -> None:
    good = next(item for item in found.items if item.organ == "breast")
    (tmp_path / "empty.png").touch()
    broken = replace(good, path=str(tmp_path / "empty.png"), name="empty.png", sha256="", mask_path="")
    unmasked = replace(good, mask_kind="", group='comma, "quote"')
    outside = Rejected("../x.png", "s", "file", "the path leaves")
    made, _ = ingest(replace(found, items=[broken, unmasked], rejected=[outside]), tmp_path)
    assert read_quarantine(tmp_path) == [
        outside,
        Rejected("empty.png", "simulator", "file", "the file is empty (0 bytes)"),
        Rejected(
            good.name, "simulator", "mask", "unknown mask_kind ''; known ones begin with binary, jpg, index, rgb"
        ),
    ]
    assert made.quarantined == {"file": 2, "mask": 1}
    assert sum(made.rows["breast"].values()) == 1


def test_nothing_usable_gives_an_empty_but_valid_set(found: Found, tmp_path: Path) -> None:
    missing = replace(found.items[0], path=str(tmp_path / "gone.png"))
    made, chunks = ingest(replace(found, items=[missing]), tmp_path)
    assert made == Assembled({}, {"file": 1})
    rows, rejected = read_fragment(fragment_path(tmp_path, chunks[0]))
    assert (rows.num_rows, len(rejected)) == (0, 1)


def test_ledger_counts_agree_with_the_rows(shards: Path) -> None:
    document = json.loads((shards / "ledger.json").read_text(encoding="utf-8"))
    reader = ShardReader(shards)
    rows = reader.table(reader.index.files).to_pydict()
    assert {entry["source"] for entry in document["sources"]} == set(rows["source"])
    for entry in document["sources"]:
        own = [i for i, source in enumerate(rows["source"]) if source == entry["source"]]
        assert entry["rows"] == len(own) == sum(entry["organs"].values())
        assert entry["items"] == len({rows["source_sha256"][i] for i in own})
        assert entry["bytes"] == sum(len(rows["image"][i]) + len(rows["mask"][i] or b"") for i in own)
        assert entry["licence"] == rows["licence"][own[0]]
    assert sum(total["rows"] for total in document["licences"].values()) == len(rows["id"])
    with (shards / "ledger.csv").open(encoding="utf-8") as stream:
        assert [int(line["rows"]) for line in csv.DictReader(stream)] == [e["rows"] for e in document["sources"]]


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
