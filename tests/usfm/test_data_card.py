import base64
import csv
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from card_factory import FINGERPRINT, card_row, card_rows, picture, write_card_shards
from upath import UPath

from usfm.data.assemble import QUARANTINE_NAME
from usfm.data.shard_columns import shard_columns
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.data.shards import ShardIndex
from usfm.errors import ShardError
from usfm.report import data_document
from usfm.report.data_card import CARD_HTML, CARD_JSON, CardConfig, build_data_card
from usfm.report.data_counts import MAX_LABELS, OTHER_LABELS, count_rows
from usfm.report.data_records import quarantine_records
from usfm.report.data_sample import varied_rows

VOID = {"meta", "img", "br", "link", "path", "use", "rect", "line"}
REFUSED = [
    ("x/1.png", "a", "file", "SHA-256 is 0123456789ab..., the manifest states ba9876543210..."),
    ("x/2.png", "a", "file", "SHA-256 is fedcba9876aa..., the manifest states 111111111111..."),
    ("v.mp4#3", "b", "frame", "blank frame: grey levels have a standard deviation of 0.50, below 2"),
    ("v.mp4#4", "b", "frame", "blank frame: grey levels have a standard deviation of 1.25, below 2"),
    ("v.mp4#5", "b", "frame", "blank frame: grey levels have a standard deviation of 1e-3, below 2"),
    ("m.png", "c", "mask", "a mask of 640x480 px for an image of 320x240 px"),
    ("d.png#0", "a", "duplicate", "the same file and frame as b/other, one.png#0, which was kept"),
    ("e.png#0", "a", "near_duplicate", "looks like a/e.png#1, which was kept; hashes differ in 2 of 64 bits"),
    ("f.png#0", "a", "near_duplicate", "looks like a/e.png#1, which was kept; hashes differ in 4 of 64 bits"),
]


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed."""

    def __init__(self, path: Path | UPath) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict]] = []
        self.text, self._open = "", []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += f" {data}"


def write_quarantine(root: Path) -> None:
    with (root / QUARANTINE_NAME).open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "source", "kind", "reason"), *REFUSED])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_card_shards(tmp_path_factory.mktemp("card_shards"), card_rows())
    write_quarantine(root)
    (root / "text_report.csv").write_text("id,source,organ,text_px,flags\nx,a,heart,300,text\n")
    return root


@pytest.fixture(scope="module")
def made(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Page]:
    page = build_data_card(shards, CardConfig(images_per_organ=10), tmp_path_factory.mktemp("card"))
    return json.loads((page.parent / CARD_JSON).read_text()), Page(page)


def test_counts_are_those_of_a_plain_loop(made) -> None:
    document, rows = made[0], card_rows()
    assert document["rows"] == len(rows)
    for key, column in (("splits", "split"), ("licences", "licence"), ("devices", "device")):
        assert {k: n for k, n in document[key].items() if n} == Counter(row[column] for row in rows)
    assert document["flags"] == {
        flag: sum(flag in row["flags"].split() for row in rows) for flag in document["flags"]
    }
    assert document["licence_flags"] == {"NC": 4, "SA": 4, "ND": 0}
    assert document["unknown"] == {
        "device": sum(not row["device"] for row in rows),
        "spacing": sum(row["spacing_mm"] is None for row in rows),
        "group": sum(not row["group"] for row in rows),
        "label": sum(not row["label"] for row in rows),
        "mask": sum(not row["mask_classes"] for row in rows),
        "licence": 8,
    }
    for organ, found in document["organs"].items():
        mine = [row for row in rows if row["organ"] == organ]
        assert found["rows"] == len(mine)
        for key in ("source", "device", "licence"):
            assert found[f"{key}s"] == Counter(row[key] for row in mine)
        assert found["paired"] == sum(row["pair"] is not None for row in mine)
        assert found["with_text"] == sum(row["text_px"] > 0 for row in mine)
        assert found["groups"] == {
            split: len({row["group"] for row in mine if row["split"] == split and row["group"]})
            for split in ("train", "val", "test")
        }
        for key in ("height", "width", "source_height", "source_width"):
            values = sorted(row[key] for row in mine)
            assert (found[key]["min"], found[key]["max"]) == (values[0], values[-1])
            assert found[key]["p50"] == values[len(values) // 2]
    assert document["organs"]["heart"]["labels"] == {"HC_mm=#": 16}
    assert document["organs"]["liver"]["labels"] == {"": 5, "benign": 3}
    assert document["organs"]["heart"]["spacing_mm"]["count"] == 8
    assert document["organs"]["liver"]["spacing_mm"] is None
    assert document["organs"]["heart"]["cropped"] == 8
    assert document["organs"]["heart"]["crop_removed"]["mean"] == pytest.approx(0.25)
    assert document["sources"]["a"] | {"origins": 0} == {
        "rows": 12, "files": 3, "files_exact": True, "organs": {"heart": 12}, "licences": {"CC BY 4.0": 12},
        "devices": {"": 12}, "origins": 0,
    }  # fmt: skip


def test_grey_levels_are_of_the_sampled_rows(made) -> None:
    found = made[0]["organs"]["liver"]["pixels"]
    images = [picture(100 + n, 40, 40) for n in range(8)]  # fewer than asked for: all of them
    assert found["images"] == 8
    assert found["mean"] == pytest.approx(np.mean([image.mean() for image in images]), abs=1e-4)
    assert found["std"] == pytest.approx(np.mean([image.std() for image in images]), abs=1e-4)
    assert made[0]["organs"]["heart"]["pixels"]["images"] == 10
    assert "10 of 16" in " ".join(made[1].text.split())


def test_every_key_is_documented(made) -> None:
    documented = set(re.findall(r"\w+", data_document.__doc__ or ""))
    organ = next(iter(made[0]["organs"].values()))
    source = next(iter(made[0]["sources"].values()))
    assert not {*made[0], *organ, *source, *made[0]["unknown"], *made[0]["privacy"], *made[0]["bands"]} - documented


def test_the_page_loads_nothing_and_its_links_lead_somewhere(made) -> None:
    page = made[1]
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    beside = {"data_card.json", "../quarantine.csv", "../text_report.csv", "../ledger.csv"}
    for tag, attrs in page.tags:
        assert tag not in {"script", "iframe", "object", "link", "form"}
        assert not [name for name in attrs if name.startswith("on")]
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/jpeg;base64,")
        if "href" in attrs:
            assert attrs["href"] in beside or attrs["href"].removeprefix("#") in ids
    assert "url(" not in page.source.replace("url(#", "")
    assert not re.search(r'(src|href)="[a-z]+://', page.source)


def test_the_page_says_what_is_not_known(made) -> None:
    text = " ".join(made[1].text.split())
    for said in (
        "The scanner is not stated for 20 of 24 images (83.3 %)",
        "The pixel spacing is not known for 16 of 24 images (66.7 %)",
        "The patient or clip is not known for 8 of 24 images",
        "The licence is not stated for 8 of 24 images",
        "1 of 2 organs come from one source alone: liver",
        "No training images of liver",
        "No benchmark list was looked for",
    ):
        assert said in text
    assert "There is no quarantine table" not in text


def test_the_privacy_section_shows_what_a_person_should_look_at(made) -> None:
    document, page = made
    assert document["privacy"] == {"text_report_lines": 1, "with_text": 4, "stated": 1, "not_painted": 2}
    shown = [attrs["title"] for tag, attrs in page.tags if tag == "img" and "title" in attrs]
    assert shown[-3:] == ["a/clip1.mp4#4", "a/clip1.mp4#5", "a/clip0.mp4#0"]  # of a clip its worst frame


def test_refusals_are_summed_up_by_reason_and_duplicates_by_source(shards: Path) -> None:
    found = quarantine_records(UPath(shards), ["a", "b", "c"], listed=4)
    assert found is not None
    assert (found["entries"], found["refused"], len(found["lines"])) == (9, 6, 4)
    assert [(entry["kind"], entry["reason"], entry["count"]) for entry in found["classes"]] == [
        ("frame", "blank frame: grey levels have a standard deviation of #, below #", 3),
        ("file", "SHA-256 is …, the manifest states …", 2),
        ("mask", "a mask of #x# px for an image of #x# px", 1),
    ]
    assert found["classes"][1]["examples"][0] == {"source": "a", "name": "x/1.png", "reason": REFUSED[0][3]}
    assert found["duplicates"] == {
        "exact": 1,
        "near": 2,
        "pairs": [
            {"removed": "a", "kept": "a", "exact": 0, "near": 2},
            {"removed": "a", "kept": "b", "exact": 1, "near": 0},
        ],
    }


def test_a_cut_table_says_so(shards: Path, tmp_path: Path) -> None:
    page = Page(build_data_card(shards, CardConfig(quarantine_lines=2, images_per_organ=1), tmp_path))
    assert "The first 2 of 6 entries" in " ".join(page.text.split())


def test_a_card_without_the_tables_beside_the_shards_says_so(tmp_path: Path) -> None:
    root = write_card_shards(tmp_path / "shards", card_rows()[16:])
    page = Page(build_data_card(root, CardConfig()))
    document = json.loads((root / "card" / CARD_JSON).read_text())
    assert (document["quarantine"], document["privacy"]["text_report_lines"]) == (None, None)
    text = " ".join(page.text.split())
    assert "There is no quarantine table beside the shards" in text
    assert "There is no report of burned-in text beside the shards" in text


def test_contamination_is_shown_and_marked_when_it_is_of_other_shards(tmp_path: Path) -> None:
    root = write_card_shards(tmp_path / "shards", card_rows())
    (root / "contamination").mkdir()
    for name, fingerprint, train in (("mine", FINGERPRINT, 0), ("old", "another", 3)):
        summary = {
            "name": name, "fingerprint": fingerprint, "rows": 24, "lines": 7, "lines_found": 3, "exact": 1,
            "near": 2, "train_rows": train, "by": {"train": {"heart": {"exact": 1, "near": 2}}} if train else {},
        }  # fmt: skip
        (root / "contamination" / f"{name}.json").write_text(json.dumps(summary))
    page = Page(build_data_card(root, CardConfig(images_per_organ=1)))
    text = " ".join(page.text.split())
    assert "training images are in the benchmark" not in text  # those of other shards are not held against these
    assert "mine no training image 7 images in the list, 3 of them found" in text
    assert "old 3 training images looked for in other shards" in text
    assert "No benchmark list" not in text
    (root / "contamination" / "old.json").write_text("{")
    with pytest.raises(ShardError, match="usfm data contamination"):
        build_data_card(root, CardConfig(images_per_organ=1))


def test_names_from_files_are_text_not_markup(tmp_path: Path) -> None:
    evil = "<script>alert('$x$')</script>"
    rows = [card_row(f"{evil}.png#0", source=evil, label=evil, device=evil, licence=evil, origin=evil)]
    root = tmp_path / "shards"
    write_card_shards(root, [row | {"source": "s"} for row in rows])
    page = Page(build_data_card(root, CardConfig()))
    assert "script" not in {tag for tag, _ in page.tags}
    assert evil in page.text


def test_the_same_seed_gives_the_same_numbers_and_another_one_another_sample(shards: Path, tmp_path: Path) -> None:
    documents = [
        json.loads((build_data_card(shards, CardConfig(images_per_organ=3, seed=seed), tmp_path / str(n)).parent
                    / CARD_JSON).read_text())
        for n, seed in enumerate([0, 0, 1])
    ]  # fmt: skip
    assert documents[0] == documents[1]
    assert documents[0]["organs"]["heart"]["pixels"] != documents[2]["organs"]["heart"]["pixels"]


def test_shards_elsewhere_give_the_same_card(made, shards: Path, tmp_path: Path) -> None:
    remote = UPath("memory:///card_test")
    for path in (p for p in shards.rglob("*") if p.is_file() and "card" not in p.relative_to(shards).parts):
        (remote / path.relative_to(shards).as_posix()).write_bytes(path.read_bytes())
    config = CardConfig(images_per_organ=10, cache=CacheConfig(folder=str(tmp_path)))
    page = build_data_card("memory:///card_test", config)
    assert page == remote / "card" / CARD_HTML
    document = json.loads((page.parent / CARD_JSON).read_text())
    assert document | {"shards": ""} == made[0] | {"shards": ""}


def test_columns_from_elsewhere_cost_their_own_bytes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)
    root = write_card_shards(tmp_path, [card_row(f"{n}.png#0", noise) for n in range(20)])
    index = ShardIndex.load(root)
    remote = UPath("memory:///columns_test")
    (remote / index.files[0].path).write_bytes((root / index.files[0].path).read_bytes())
    columns = ["organ", "spacing_mm", "id"]
    fetched = 0
    stream = (remote / index.files[0].path).open("rb")
    read = type(stream).read

    def counted(self, size: int = -1) -> bytes:
        nonlocal fetched
        data = read(self, size)
        fetched += len(data)
        return data

    monkeypatch.setattr(type(stream), "read", counted)
    batch = shard_columns(remote, index.files[0], columns)
    assert batch.schema.names == columns
    assert batch.equals(shard_columns(index.root, index.files[0], columns))
    assert 0 < fetched < index.files[0].bytes / 20


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"no shard")])
def test_a_missing_or_damaged_shard_is_named(damage, tmp_path: Path) -> None:
    root = write_card_shards(tmp_path, card_rows())
    path = sorted(root.rglob("*.arrow"))[0]
    damage(path)
    with pytest.raises(ShardError, match=path.name):
        build_data_card(root, CardConfig())


def test_contact_sheets_vary_over_sources_and_clips(tmp_path: Path) -> None:
    rows = [card_row(f"clip{n // 20}.mp4#{n}", source="large") for n in range(100)]
    rows += [card_row(f"{n}.png#0", source="small") for n in range(3)]
    reader = ShardReader(write_card_shards(tmp_path, rows))
    chosen = varied_rows(reader, reader.index.files, 6, 0, "sheet")
    ids = [reader.take(path, np.array([row]), ["id"]).to_pylist()[0]["id"] for path, row in chosen]
    assert sum(name.startswith("small/") for name in ids) == 3
    assert len({name.partition("#")[0] for name in ids}) == len(set(ids)) == 6


def test_labels_are_counted_up_to_a_limit(tmp_path: Path) -> None:
    rows = [
        card_row(f"{n}.png#0", picture(0), label=f"label {'x' * (n % 7)}{chr(0x4E00 + n)}") for n in range(1010)
    ]
    counts = count_rows(ShardIndex.load(write_card_shards(tmp_path, rows)))
    assert len(counts.labels["heart"]) == MAX_LABELS + 1
    assert counts.labels["heart"][OTHER_LABELS] == 10


def test_empty_shards_give_a_card_too(tmp_path: Path) -> None:
    page = Page(build_data_card(write_card_shards(tmp_path, []), CardConfig()))
    assert "0 images stored" in " ".join(page.text.split())


def test_pictures_on_the_page_are_small(made) -> None:
    sources = [attrs["src"] for tag, attrs in made[1].tags if tag == "img"]
    for source in sources:
        data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
        assert max(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).shape) <= 176
    assert len(sources) == 15 + 8 + 3
