import os
import random
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from usfm.data.catalogue import Catalogue
from usfm.data.fragments import row_settings
from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig
from usfm.data.schema import Item, Rejected
from usfm.data.sources.table import Found, find_items
from usfm.data.stamps import Stamps, digest, identity

NUMBERS = count()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ITEMS = st.builds(
    Item,
    path=st.just("/nowhere"),
    name=TEXT,
    organ=st.sampled_from(["heart", "lung"]),
    label=TEXT,
    source=TEXT,
    group=TEXT,
    spacing_mm=st.none() | st.floats(0.01, 10),
    frame=st.none() | st.integers(0, 99),
)


def catalogue(folder: Path, entries: list, exclude: tuple[str, ...] = ()) -> Catalogue:
    return Catalogue(folder / f"{next(NUMBERS)}.sqlite", iter(entries), exclude)


def name_of(folder: Path, found: Found, size: int = 5, key: str = "k", more: tuple = ()) -> str:
    return catalogue(folder, [*found.items, *found.rejected]).cut(size, key, more)


@given(st.lists(ITEMS, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_back_in_order_whatever_the_order_of_arrival(
    tmp_path: Path, items: list[Item], shuffled: random.Random
) -> None:
    def key(item: Item) -> tuple:
        return (item.name, item.source, item.organ, item.label, item.frame is not None, item.frame)

    read = list(catalogue(tmp_path, items))
    assert sorted(map(repr, read)) == sorted(map(repr, items))
    assert [key(item)[:4] for item in read] == sorted(key(item)[:4] for item in items)
    again = items.copy()
    shuffled.shuffle(again)
    assert list(catalogue(tmp_path, again)) == read


def test_counts_and_refusals_come_in_order(tmp_path: Path) -> None:
    items = [
        Item("/b.PNG", "b.PNG", "heart"),
        Item("/a", "1.2.840.77", "lung"),
        Item("/c.png", "c.png", "eye"),
    ]
    refused = [Rejected("z", "s", "file", "r"), Rejected("a", "s", "mask", "r")]
    listed = catalogue(tmp_path, [*refused, Rejected("x.txt", "s", "ignored", ""), *items], ("eye",))
    assert (listed.items, listed.refused, listed.ignored) == (2, 2, 1)
    assert listed.organs == {"heart": 1, "lung": 1, "eye": 1}
    assert listed.suffixes == {".png": 1, "": 1}
    assert [item.name for item in listed] == ["1.2.840.77", "b.PNG"]
    assert list(listed.rejected()) == refused[::-1]


def test_a_name_in_an_old_encoding_is_refused_and_no_more(tmp_path: Path) -> None:
    bad = os.fsdecode(b"heart/k\xfcste.png")
    listed = catalogue(tmp_path, [Item("/a.png", "a.png", "heart"), Item(f"/{bad}", bad, "heart")])
    assert [item.name for item in listed] == ["a.png"]
    (entry,) = listed.rejected()
    assert entry.name == "heart/k\\udcfcste.png"
    assert "not valid UTF-8; rename the file" in entry.reason


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_chunks_hold_every_item_in_order(tmp_path: Path, size: int) -> None:
    items = [Item(f"/{n}", f"{n:03d}.png", "heart") for n in range(25)]
    listed = catalogue(tmp_path, items[::-1])
    name = listed.cut(size, "settings")
    chunks = list(listed.chunks())
    assert [item for chunk in chunks for item in chunk.items] == items
    assert [len(chunk.items) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
    assert [chunk.key for chunk in chunks] == list(listed.chunk_keys())
    assert len(chunks) == listed.chunk_count == len({chunk.key for chunk in chunks})
    assert listed.cut(size + 1, "settings") == name  # of the whole, however it is cut
    assert listed.cut(size, "others") != name
    assert set(listed.chunk_keys()).isdisjoint(chunk.key for chunk in chunks)


def test_a_chunk_is_named_by_its_own_items_alone(tmp_path: Path) -> None:
    items = [Item(f"/{n}", f"{n:03d}.png", "heart") for n in range(12)]
    one, more = catalogue(tmp_path, items), catalogue(tmp_path, [*items, Item("/z", "z.png", "lung")])
    names = one.cut(4, "s"), more.cut(4, "s")
    assert names[0] != names[1]
    assert list(more.chunk_keys())[:3] == list(one.chunk_keys())


def test_name_sees_content_and_settings_but_not_the_place(
    tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_items(tiny_archive)
    name = name_of(tmp_path, found)
    moved = tmp_path / "moved"
    shutil.copytree(found.root, moved, copy_function=shutil.copy2)
    assert name_of(tmp_path, find_items(moved)) == name
    assert name_of(tmp_path, found, key="other") != name
    assert name_of(tmp_path, found, more=(8,)) != name
    assert name_of(tmp_path, replace(found, items=found.items[1:])) != name
    assert name_of(tmp_path, replace(found, rejected=[Rejected("a", "s", "file", "r")])) != name
    settings_key = row_settings(PrepareConfig())
    assert row_settings(PrepareConfig(longest_side_px=64)) != settings_key
    monkeypatch.setenv(GROUP_KEY_VARIABLE, "a secret")
    assert row_settings(PrepareConfig()) != settings_key


def test_identity_sees_a_changed_file_a_changed_mask_and_a_missing_one(tiny_archive: Path, tmp_path: Path) -> None:
    def known(item: Item) -> str:
        return digest([identity(item, Stamps())])

    found = find_items(tiny_archive)
    copied = tmp_path / "copy"
    shutil.copytree(found.root, copied, copy_function=shutil.copy2)
    there = next(item for item in find_items(copied).items if item.mask_path)
    here = next(item for item in found.items if item.name == there.name)
    assert known(there) == known(here)
    unstated = replace(there, sha256="")
    assert known(unstated) == known(replace(here, sha256=""))
    os.utime(there.path, ns=(1, 1))
    assert known(there) == known(here)  # its SHA-256 is stated
    assert known(unstated) != known(replace(here, sha256=""))
    Path(there.mask_path).write_bytes(b"another mask")
    assert known(there) != known(here)
    Path(there.path).unlink()
    assert known(replace(there, mask_path="")) != known(replace(here, mask_path=""))
