import csv
import hashlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from usfm.data.assemble import Assembled, assemble, existing, read_quarantine
from usfm.data.catalogue import Catalogue
from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.fragments import fragment_path, process_chunk, read_fragment, row_settings
from usfm.data.prepare import PrepareConfig, Rejected, prepare
from usfm.data.readers.frames import FrameSelection
from usfm.data.shard_reader import ShardReader
from usfm.data.sources.table import Found, find_items
from usfm.data.split import SplitConfig

CONFIG = PrepareConfig(longest_side_px=64, frames=FrameSelection(max_frames=3))
SPLIT, DUPLICATES = SplitConfig(), DuplicateConfig(near=False)  # simulated images of one organ look alike
ROWS = 7
TABLES = ("quarantine.csv", "splits.csv", "text_report.csv", "ledger.csv", "ledger.json", "index.json")


def digests(root: Path) -> dict[str, str]:
    """Of every file but `ingest.json`, which knows places and times."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and "fragments" not in path.parts)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "ingest.json"
    }


def catalogue(found: Found, folder: Path, size: int = 5, split: SplitConfig = SPLIT) -> tuple[Catalogue, str]:
    folder.mkdir(parents=True, exist_ok=True)
    number = next(n for n in itertools.count() if not (folder / f"{n}.sqlite").exists())
    listed = Catalogue(folder / f"{number}.sqlite", [*found.items, *found.rejected])
    return listed, listed.cut(size, row_settings(CONFIG), [ROWS, split.model_dump()])


def ingest(
    found: Found, output: Path, size: int = 5, order: int = 1, split: SplitConfig = SPLIT
) -> tuple[Assembled, list[str]]:
    """The whole path without Ray; `order` -1 processes the chunks backwards, as a scheduler might."""
    listed, name = catalogue(found, output.parent / f"{output.name}.scratch", size, split)
    for chunk in list(listed.chunks())[::order]:
        process_chunk(chunk, output, CONFIG)
    keys = list(listed.chunk_keys())
    rejected = listed.rejected()
    made = assemble(
        keys, output, name, ROWS, rejected, prepare=CONFIG, split=split, duplicates=DUPLICATES
    )  # fmt: skip
    listed.close()
    return made, keys


def rows_of(root: Path, *columns: str) -> dict[str, list]:
    reader = ShardReader(root)
    return reader.table(reader.index.files).select(list(columns)).to_pydict()


@pytest.fixture(scope="module")
def found(tiny_archive: Path) -> Found:
    return find_items(tiny_archive)


@pytest.fixture(scope="module")
def shards(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assembled") / "shards"
    ingest(found, output)
    return output


def test_every_row_once_in_item_order(found: Found, shards: Path) -> None:
    expected: dict[tuple[str, str, str], list[str]] = {}
    for item in found.items:
        for row in prepare(item, CONFIG)[0]:
            expected.setdefault((row["organ"], row["source"], row["device"]), []).append(row["id"])
    reader = ShardReader(shards)
    got: dict[tuple[str, str, str], list[str]] = {}
    for file in reader.index.files:
        rows = reader.batch(file.path).to_pydict()
        for name in ("split", "organ", "source", "device"):
            assert set(rows[name]) == {getattr(file, name)}
        assert sorted(set(rows["licence"])) == file.licences
        got.setdefault((file.organ, file.source, file.device), []).append(rows["id"])
    assert len({device for *_, device in expected}) > 1
    for key, parts in got.items():
        places = [[expected[key].index(name) for name in part] for part in parts]
        assert sorted(itertools.chain(*places)) == list(range(len(expected.pop(key))))
        assert all(part == sorted(part) for part in places)
    assert expected == {}


def test_shards_are_full_and_bounded(shards: Path) -> None:
    files = ShardReader(shards).index.files
    for _, group in itertools.groupby(files, key=lambda file: (file.split, file.organ, file.source, file.device)):
        sizes = [file.rows for file in group]
        assert all(size == ROWS for size in sizes[:-1])
        assert 1 <= sizes[-1] <= ROWS
    for key, group in itertools.groupby(files, key=lambda file: (file.split, file.organ, file.source)):
        names = [file.path for file in group]
        folder = names[0].split("/")[2]
        assert folder.startswith(key[2].lower().split(" ")[0])
        assert names == [f"{key[0]}/{key[1]}/{folder}/{number:05d}.arrow" for number in range(len(names))]


def test_no_group_is_in_two_splits(shards: Path) -> None:
    rows = rows_of(shards, "group", "split")
    splits: dict[str, set[str]] = {}
    for group, split in zip(rows["group"], rows["split"], strict=True):
        splits.setdefault(group, set()).add(split)
    assert len(splits) > 20
    assert {len(names) for group, names in splits.items() if group} == {1}
    assert splits.get("", {"train"}) == {"train"}
    with (shards / "splits.csv").open(encoding="utf-8", newline="") as stream:
        table = {line["group"]: ({line["split"]}, int(line["rows"])) for line in csv.DictReader(stream)}
    assert table == {g: (names, rows["group"].count(g)) for g, names in sorted(splits.items()) if g}
    assert list(table) == sorted(table)


@pytest.mark.parametrize(("size", "order"), [(5, -1), (1, 1), (1000, 1)])
def test_neither_scheduling_nor_chunk_size_changes_a_byte(
    found: Found, shards: Path, tmp_path: Path, size: int, order: int
) -> None:
    ingest(found, tmp_path / "s", size, order)
    assert digests(tmp_path / "s") == digests(shards)


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

    output = tmp_path / "s"
    ingest(replace(found, items=found.items[:9]), output)  # an earlier ingest of other items
    assert (output / "index.json").exists()
    monkeypatch.setattr(module, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        ingest(found, output)
    assert not (output / "index.json").exists()
    monkeypatch.setattr(module, "write_shard", whole)
    ingest(found, output)
    assert digests(output) == digests(shards)


def test_rebuild_leaves_nothing_of_the_old(found: Found, shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "again")
    (tmp_path / "again/train/heart/00000.partial").write_bytes(b"half")
    few = replace(found, items=[item for item in found.items if item.organ in ("nerve", "breast")])
    made, _ = ingest(few, tmp_path / "again")
    ingest(few, tmp_path / "fresh")
    assert digests(tmp_path / "again") == digests(tmp_path / "fresh")
    assert set(made.rows) == {"nerve", "breast"}
    assert not (tmp_path / "again/train/heart").exists()


def test_split_of_a_group_is_stable_when_data_is_added(found: Found, tmp_path: Path) -> None:
    hashed, floor = SplitConfig(min_groups=0), SplitConfig(min_groups=3)
    part = replace(found, items=found.items[::2])

    def splits(name: str, items: Found, config: SplitConfig) -> dict[str, str]:
        ingest(items, tmp_path / name, split=config)
        rows = rows_of(tmp_path / name, "id", "split")
        return dict(zip(rows["id"], rows["split"], strict=True))

    before, after = splits("a", part, hashed), splits("b", found, hashed)
    assert len(before) < len(after)
    assert {name: after[name] for name in before} == before
    before = splits("c", part, floor)
    kept = splits("d", found, floor.model_copy(update={"keep": str(tmp_path / "c")}))
    moved = splits("e", found, floor)
    assert {name: kept[name] for name in before} == before
    assert {name: moved[name] for name in before} != before  # what `keep` is for


def test_official_splits_are_taken_where_they_are_stated(found: Found, tmp_path: Path) -> None:
    chosen = [item for item in found.items if item.organ == "lung"]
    stated = ["train", "test", "val", ""] * len(chosen)
    items = [replace(i, official_split=s, group="") for i, s in zip(chosen, stated, strict=False)]
    items[1] = replace(items[1], group="cut")
    items[2] = replace(items[2], group="cut")
    for official in (False, True):
        ingest(replace(found, items=items), tmp_path / str(official), split=SplitConfig(official=official))
        rows = rows_of(tmp_path / str(official), "id", "split")
        got = {name.rpartition("#")[0]: split for name, split in zip(*rows.values(), strict=True)}
        expected = [item.official_split or "train" if official else "train" for item in items]
        expected[1] = expected[2] = "test" if official else got[f"{items[1].source}/{items[1].name}"]
        assert got == {f"{i.source}/{i.name}": split for i, split in zip(items, expected, strict=True)}


def test_existing_knows_its_own_ingest_only(found: Found, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "s"
    again, _ = ingest(found, output)
    _, name = catalogue(found, tmp_path / "names")
    assert existing(output, name) == existing(shards, name) == again
    assert existing(shards, "another") is None
    assert existing(tmp_path / "nowhere", name) is None
    shard = next((output / "train").rglob("*.arrow"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert existing(output, name) is None
    shard.write_bytes(data)
    assert existing(output, name) == again
    shard.unlink()
    assert existing(output, name) is None


def test_duplicates_keep_the_first(found: Found, tmp_path: Path) -> None:
    chosen = [item for item in found.items if item.organ == "carotid"]
    copies = [replace(item, name="z/" + item.name, group="another patient") for item in chosen]
    made, _ = ingest(replace(found, items=chosen + copies), tmp_path / "s")
    assert sum(made.rows["carotid"].values()) == len(chosen)
    assert made.quarantined == {"duplicate": len(chosen)}
    assert read_quarantine(tmp_path / "s")[0] == Rejected(
        f"z/{chosen[0].name}#0",
        "simulator",
        "duplicate",
        f"the same file and frame as simulator/{chosen[0].name}#0, which was kept",
    )


def test_of_equal_files_the_one_with_a_mask_stays_then_the_one_with_a_label(found: Found, tmp_path: Path) -> None:
    masked = next(item for item in found.items if item.mask_path and item.organ == "breast")
    bare = replace(masked, mask_path="", mask_kind="", label="")
    labelled = replace(bare, label="benign")
    for items, kept in [([bare, labelled, masked], "c"), ([bare, labelled, bare], "b"), ([bare, bare, bare], "a")]:
        named = [replace(item, name=f"{name}.png") for name, item in zip("abc", items, strict=True)]
        made, _ = ingest(replace(found, items=named), tmp_path / kept)
        assert rows_of(tmp_path / kept, "id")["id"] == [f"{masked.source}/{kept}.png#0"]
        assert made.quarantined == {"duplicate": 2}


def test_quarantine_table_is_exact(found: Found, tmp_path: Path) -> None:
    good = next(item for item in found.items if item.organ == "breast")
    (tmp_path / "empty.png").touch()
    broken = replace(good, path=str(tmp_path / "empty.png"), name="empty.png", sha256="", mask_path="")
    unmasked = replace(good, mask_kind="unheard of", group='comma, "quote"')
    outside = Rejected("../x.png", "s", "file", "the path leaves")
    made, _ = ingest(replace(found, items=[broken, unmasked], rejected=[outside]), tmp_path / "s")
    first, mask, second = read_quarantine(tmp_path / "s")
    assert (first, second) == (
        outside,
        Rejected("empty.png", "simulator", "file", "the file is empty (0 bytes)"),
    )
    assert (mask.name, mask.kind) == (good.name, "mask")
    assert mask.reason.startswith("unknown mask_kind 'unheard of'")
    assert made.quarantined == {"file": 2, "mask": 1}
    assert sum(made.rows["breast"].values()) == 1


def test_nothing_usable_gives_an_empty_but_valid_set(found: Found, tmp_path: Path) -> None:
    missing = replace(found.items[0], path=str(tmp_path / "gone.png"))
    made, keys = ingest(replace(found, items=[missing]), tmp_path / "s")
    assert made == Assembled({}, {"file": 1})
    rows, rejected = read_fragment(fragment_path(tmp_path / "s", keys[0]))
    assert (rows.num_rows, len(rejected)) == (0, 1)
    assert {path.name for path in (tmp_path / "s").iterdir() if path.is_file()} == {*TABLES, "ingest.json"}


def test_ledger_counts_agree_with_the_rows(shards: Path) -> None:
    document = json.loads((shards / "ledger.json").read_text(encoding="utf-8"))
    rows = rows_of(shards, "source", "source_sha256", "image", "mask", "licence", "id")
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
