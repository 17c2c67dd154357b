"""Every field of the items of each layout, and the properties that all layouts share."""

from dataclasses import astuple, replace
from pathlib import Path

import pytest
from source_miniatures import MINIATURES, OPTIONS, PNG, lay_out

from usfm.data.schema import Item, Rejected
from usfm.data.sources.dicom import hashed_name
from usfm.data.sources.found import SourceOptions
from usfm.data.sources.table import SOURCES, find_items
from usfm.errors import ConfigError, DataError

LISTED = [kind for kind in SOURCES if kind in MINIATURES]


def options(kind: str) -> SourceOptions:
    return SourceOptions(organ=OPTIONS.get(kind, ""))


def relative(item: Item, location: str) -> Item:
    """The item with paths relative to the archive, whatever it lies on."""

    def cut(paths: str) -> str:
        parts = (path.partition("::")[0].removeprefix("zip://").removeprefix(location) for path in paths.split("|"))
        return "|".join(part.lstrip("/") for part in parts)

    return replace(item, path=cut(item.path), mask_path=cut(item.mask_path), pair_path=cut(item.pair_path))


EXPECTED: dict[str, list[Item]] = {
    "manifest": [
        Item(
            "a/1.png",
            "a/1.png",
            "fetal_head",
            mask_path="m/1.png|m/2.png",
            mask_kind="binary png: head",
            group="p1",
            source="s",
            licence="CC0-1.0",
            device="GE Voluson",
            pair_path="b/1.png",
            official_split="test",
        ),
        Item("c.mp4", "c.mp4", "lung", label="covid", source="s", licence="CC BY 4.0", frame=3),
    ],
    "folder": [
        Item(
            "Heart/2CH ED/p1/a.png",
            "Heart/2CH ED/p1/a.png",
            "heart",
            label="2CH ED",
            mask_path="Heart/2CH ED/p1/a_mask.png",
            mask_kind="binary png",
            group="p1",
            source="archive",
            licence="not stated",
        ),
        Item("lung/b.jpg", "lung/b.jpg", "lung", source="archive", licence="not stated"),
    ],
    "class_folders": [
        Item(name, name, "liver", label=label, source="archive", licence="not stated", official_split=split)
        for name, label, split in (
            ("test/malignant/deep/3.png", "malignant", "test"),
            ("train/benign/1.png", "benign", "train"),
            ("valid/malignant/2.jpg", "malignant", "val"),
        )
    ],
    "image_mask": [
        Item(name, name, "thyroid", source="archive", licence="not stated", official_split=name.split("/")[0])
        for name in ("test/images/2.jpg", "test/images/3.png", "train/images/1.png")
    ],
    "dicom": [
        Item(path, hashed_name(path), organ, source="archive", licence="not stated")
        for path, organ in (("DOE^JOHN/1.2.840.1", "breast"), ("DOE^JOHN/IM2.dcm", "heart"))
    ],
    "busi": [
        Item(
            f"Dataset_BUSI_with_GT/{label}/{label} (1).png",
            f"Dataset_BUSI_with_GT/{label}/{label} (1).png",
            "breast",
            label=label,
            mask_path="|".join(f"Dataset_BUSI_with_GT/{label}/{label} (1)_mask{more}.png" for more in masks),
            mask_kind="binary png: lesion" if masks else "",
            group="unknown",
            source="busi",
            licence="not stated",
        )
        for label, masks in (("benign", ["", "_1"]), ("malignant", [""]), ("normal", []))
    ],
    "busbra": [
        Item(
            f"BUSBRA/Images/bus_0001-{side}.png",
            f"BUSBRA/Images/bus_0001-{side}.png",
            "breast",
            label=label,
            mask_path=f"BUSBRA/Masks/mask_0001-{side}.png",
            mask_kind="binary png: lesion",
            group="case1",
            source="busbra",
            licence="CC BY 4.0",
            device="GE Logiq",
        )
        for side, label in (("l", "benign"), ("r", "malignant"))
    ],
    "busuclm": [
        Item(
            f"images/{stem}.png",
            f"images/{stem}.png",
            "breast",
            label=label,
            mask_path=f"masks/{stem}.png",
            mask_kind="RGB png: green benign, red malignant",
            group=stem[:4],
            source="busuclm",
            licence="not stated",
            device="Siemens ACUSON S2000",
        )
        for stem, label in (("ALWI_000", "Normal"), ("ANFO_005", "Benign"))
    ],
    "ddti": [
        Item(
            "12_1.jpg",
            "12_1.jpg",
            "thyroid",
            label="TI-RADS 4a",
            mask_path="12.xml",
            mask_kind="polygons ddti-xml image=1: nodule",
            group="case12",
            source="ddti",
            licence="not stated",
        ),
        *(
            Item(name, name, "thyroid", label=label, group=group, source="ddti", licence="not stated")
            for name, label, group in (
                ("12_2.jpg", "TI-RADS 4a", "case12"),
                ("13_1.jpg", "", "case13"),
                ("14_1.jpg", "", "case14"),
            )
        ),
    ],
    "tn3k": [
        Item(
            f"{part}-image/{stem}.jpg",
            f"{part}-image/{stem}.jpg",
            "thyroid",
            label=label,
            mask_path=f"{part}-mask/{stem}.jpg",
            mask_kind="jpg, threshold >127: nodule",
            group="unknown",
            source="tn3k",
            licence="not stated",
            official_split=split,
        )
        for part, stem, label, split in (
            ("test", "0000", "", "test"),
            ("trainval", "0000", "benign", "train"),
            ("trainval", "0001", "malignant", "val"),
        )
    ],
    "hc18": [
        Item(
            f"{part}/{name}.png",
            f"{part}/{name}.png",
            "fetal_head",
            label=label,
            mask_path=f"{part}/{name}_Annotation.png" if label else "",
            mask_kind="outline png: head" if label else "",
            group=f"{part}_000",
            spacing_mm=spacing,
            source="hc18",
            licence="CC BY 4.0",
            official_split=split,
        )
        for part, name, label, spacing, split in (
            ("test_set", "000_HC", "", 0.235857478214, "test"),
            ("training_set", "000_2HC", "HC_mm=45", 0.07, "train"),
            ("training_set", "000_HC", "HC_mm=44.3", 0.0691358041432, "train"),
        )
    ],
    "usenhance": [
        Item(
            f"train_datasets/{name}",
            f"train_datasets/{name}",
            name.split("/")[0],
            group="unknown",
            source="usenhance",
            licence="not stated",
            pair_path=f"train_datasets/{pair}" if pair else "",
        )
        for name, pair in (
            ("breast/low_quality/1.png", "breast/high_quality/1.png"),
            ("carotid/high_quality/4.png", ""),
            ("carotid/low_quality/2.png", "carotid/high_quality/2.png"),
            ("carotid/low_quality/3.png", ""),
        )
    ],
    "ultrabench": [
        Item(
            "aul_liver_v1.0.0/images/normal_1.jpg",
            "aul_liver_v1.0.0/images/normal_1.jpg",
            "liver",
            label="Normal",
            mask_path="aul_liver_v1.0.0/masks/liver/normal_1.png",
            mask_kind="index png: 0 bg, 1 liver",
            group="unknown",
            source="ultrabench",
            licence="not stated",
            official_split="train",
        ),
        Item(
            "butterfly_v1.0.0/images/7.png",
            "butterfly_v1.0.0/images/7.png",
            "heart",
            label="4ch",
            group="butterfly_v1.0.0/5",
            source="ultrabench",
            licence="not stated",
            official_split="test",
        ),
        Item(
            "own/x/1.png",
            "own/x/1.png",
            "ovary",
            label="cyst",
            group="own/p9",
            source="ultrabench",
            licence="not stated",
            official_split="val",
        ),
    ],
}
EXPECTED["class_folders"][1] = replace(
    EXPECTED["class_folders"][1], mask_path="train/benign/1_mask.png", mask_kind="binary png"
)
EXPECTED["image_mask"][0] = replace(
    EXPECTED["image_mask"][0], mask_path="test/masks/2_mask.png", mask_kind="binary png"
)
EXPECTED["image_mask"][2] = replace(
    EXPECTED["image_mask"][2], mask_path="train/masks/1.png", mask_kind="binary png"
)
EXPECTED["dicom"].sort(key=lambda item: item.name)

REFUSED: dict[str, list[tuple[str, str, str]]] = {
    "image_mask": [("test/masks/4.png", "mask", "no image of this name in test/images/")],
    "dicom": [
        (hashed_name("DOE^JOHN/CT1.dcm"), "file", "the modality is 'CT'; expected US or IVUS"),
        (hashed_name("DOE^JOHN/cut.dcm"), "file", "damaged DICOM header"),
    ],
    "busi": [("Dataset_BUSI_with_GT/malignant/malignant (2)_mask.png", "mask", "no image malignant (2).png")],
    "busbra": [
        ("BUSBRA/Images/bus_0002-l.png", "file", "bus_data.csv has no line for bus_0002-l"),
        ("BUSBRA/Images/bus_0003-s.png", "file", "bus_data.csv names this file, and it is missing"),
    ],
    "busuclm": [("images/ANFO_006.png", "file", "INFO.csv names this file, and it is missing")],
    "ddti": [("13.xml", "mask", "the case's XML cannot be read")],
    "ultrabench": [("aul_liver_v1.0.0/../escape.jpg", "file", "leaves the archive's folder")],
}
IGNORED = {"folder": 1, "class_folders": 1, "dicom": 2, "busi": 1}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("where", ["folder", "zip", "memory"])
def test_miniature(kind: str, where: str, tmp_path: Path) -> None:
    location = lay_out(MINIATURES[kind], where, tmp_path)
    found = find_items(location, kind, options(kind))
    assert found.kind == kind
    assert [relative(item, location) for item in found.items] == EXPECTED[kind]
    source = "s" if kind == "manifest" else EXPECTED[kind][0].source
    refused = sorted(REFUSED.get(kind, []))
    assert [(entry.name, entry.kind, entry.source) for entry in found.rejected] == [
        (name, what, source) for name, what, _ in refused
    ]
    for entry, (_, _, reason) in zip(found.rejected, refused, strict=True):
        assert reason in entry.reason
    assert found.ignored == IGNORED.get(kind, 0)


@pytest.mark.parametrize("kind", [kind for kind in LISTED if kind not in ("class_folders", "image_mask")])
def test_auto_recognises(kind: str, tmp_path: Path) -> None:
    found = find_items(lay_out(MINIATURES[kind], "folder", tmp_path), options=options(kind))
    assert found.kind == kind
    assert found.items


@pytest.mark.parametrize("miniature", MINIATURES)
def test_at_most_one_published_set_fits(miniature: str, tmp_path: Path) -> None:
    root = lay_out(MINIATURES[miniature], "folder", tmp_path)
    fitting = []
    for kind, source in SOURCES.items():
        if source.published:
            try:
                find_items(root, kind)
                fitting.append(kind)
            except DataError:
                pass
    assert fitting == ([miniature] if SOURCES[miniature].published else [])


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "folder"])
def test_another_layout_is_named_with_what_is_expected(kind: str, tmp_path: Path) -> None:
    root = lay_out({"some.txt": b"text"}, "folder", tmp_path)
    with pytest.raises(DataError) as error:
        find_items(root, kind, SourceOptions(organ="liver"))
    expected = "no manifest at" if kind == "manifest" else SOURCES[kind].layout
    assert expected in str(error.value)
    assert root in str(error.value)


@pytest.mark.parametrize("kind", ["class_folders", "image_mask"])
def test_layouts_without_organs_ask_for_one(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no organ; give source_options.organ"):
        find_items(lay_out(MINIATURES[kind], "folder", tmp_path), kind)


def test_options_fill_gaps_and_override_nothing(tmp_path: Path) -> None:
    stated = SourceOptions(organ="Spleen", source="ours", licence="internal")
    found = find_items(lay_out(MINIATURES["folder"], "folder", tmp_path, "a"), options=stated)
    assert {(item.organ, item.source, item.licence) for item in found.items} == {
        ("heart", "ours", "internal"),
        ("lung", "ours", "internal"),
    }
    found = find_items(lay_out(MINIATURES["busbra"], "folder", tmp_path, "b"), options=stated)
    assert {(item.organ, item.source, item.licence) for item in found.items} == {("breast", "busbra", "CC BY 4.0")}
    found = find_items(lay_out(MINIATURES["busi"], "folder", tmp_path, "c"), options=stated)
    assert {(item.organ, item.source, item.licence) for item in found.items} == {("breast", "busi", "internal")}


def test_dicom_without_organ_is_refused_with_advice(tmp_path: Path) -> None:
    found = find_items(lay_out(MINIATURES["dicom"], "folder", tmp_path))
    assert [item.organ for item in found.items] == ["breast"]
    reasons = {entry.name: entry.reason for entry in found.rejected}
    assert "give source_options.organ" in reasons[hashed_name("DOE^JOHN/IM2.dcm")]


def test_dicom_names_hide_the_path_and_follow_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = lay_out(MINIATURES["dicom"], "folder", tmp_path)
    found = find_items(root, options=options("dicom"))
    assert not [text for entry in (*found.items, *found.rejected) for text in (entry.name,) if "DOE" in text]
    monkeypatch.setenv("USFM_GROUP_KEY", "a secret of the hospital")
    again = find_items(root, options=options("dicom"))
    assert {item.path for item in again.items} == {item.path for item in found.items}
    assert not {item.name for item in again.items} & {item.name for item in found.items}


def test_two_sets_in_one_folder_ask_which(tmp_path: Path) -> None:
    root = lay_out({**MINIATURES["tn3k"], **MINIATURES["busuclm"]}, "folder", tmp_path)
    with pytest.raises(DataError, match="looks like busuclm and like tn3k; say which: source=busuclm"):
        find_items(root)
    assert len(find_items(root, "tn3k").items) == 3


def test_table_that_lacks_a_column(tmp_path: Path) -> None:
    files = {**MINIATURES["busbra"], "BUSBRA/bus_data.csv": b"ID,Pathology\n"}
    with pytest.raises(DataError, match=r"bus_data.csv lacks the columns Case; it has ID, Pathology"):
        find_items(lay_out(files, "folder", tmp_path), "busbra")


def test_every_entry_is_hashable_text(tmp_path: Path) -> None:
    for kind in MINIATURES:
        found = find_items(lay_out(MINIATURES[kind], "folder", tmp_path, kind), kind, options(kind))
        for entry in (*found.items, *found.rejected):
            assert isinstance(entry, Item | Rejected)
            assert all(isinstance(value, str | int | float | None) for value in astuple(entry))


def test_png_of_miniatures_is_one() -> None:
    assert PNG.startswith(b"\x89PNG")
