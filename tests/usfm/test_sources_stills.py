import json
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from media_factory import clip
from PIL import Image
from source_miniatures import lay_out
from source_reading import WHERE, by_name, listed, read_item, relative

from usfm.data.location import locate
from usfm.data.schema import Item, Rejected
from usfm.data.sources.aul import AUL
from usfm.data.sources.fetal_planes import FETAL_PLANES
from usfm.data.sources.found import Source
from usfm.data.sources.kidneyus import KIDNEYUS
from usfm.data.sources.luminous import LUMINOUS
from usfm.data.sources.mmotu import CLASSES, MMOTU
from usfm.data.sources.muscle import FALLMUD
from usfm.data.sources.pocus import POCUS
from usfm.errors import DataError

Pixels = npt.NDArray[np.uint8]
SIZE = (20, 30)


def still(seed: int = 0, form: str = "PNG", size: tuple[int, int] = SIZE) -> bytes:
    return encoded(grey(seed, size), form)


def grey(seed: int = 0, size: tuple[int, int] = SIZE) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)


def encoded(pixels: Pixels, form: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, form, **({"quality": 100} if form == "JPEG" else {}))
    return stream.getvalue()


def box(top: int, left: int, bottom: int, right: int, level: int = 255) -> Pixels:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = level
    return mask


def corners(top: int, left: int, bottom: int, right: int) -> list[list[int]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


POCUS_FILES = {
    "README.md": b"text",
    "data/dataset_metadata.csv": b"Date added,Filename,URL (Video Name),Label,License,Patient ID / Name\n"
    b"1,Cov-Atlas-Day+1,a.org (Day1),COVID-19,CC BY-NC 4.0,35\n"
    b"1,pneu-gred-6.gif,b.org,Bacterial pneumonia,None,n/A\n"
    b"1,Reg_two,c.org,regular,CC BY 4.0,1\n1,Reg-two,c.org,regular,CC BY-NC 4.0,1\n",
    "data/pocus_images/convex/Cov_Atlas-Day+1.png": still(1),
    "data/pocus_images/convex/license.txt": b"text",
    "data/pocus_images/linear/Reg-two.JPG": still(2, "JPEG"),
    "data/pocus_videos/Convex/Pneu-gred-6.avi": clip(5),
    "data/pocus_videos/Convex/Vir_unlisted.mp4": clip(3, form="mp4"),
    "data/pocus_videos/other.mov": clip(2, form="mov"),
}


@pytest.mark.parametrize("where", WHERE)
def test_pocus(tmp_path: Path, where: str) -> None:
    found = listed(POCUS_FILES, "pocus", tmp_path, where)

    def entry(name: str, label: str, group: str = "", licence: str = "not stated", origin: str = "") -> Item:
        group = group or "unknown (no patient stated)"
        return Item(name, name, "lung", label, group=group, source="pocus", licence=licence, origin=origin)

    assert relative(found) == [
        entry("data/pocus_images/convex/Cov_Atlas-Day+1.png", "covid", "35", "CC BY-NC 4.0", "a.org (Day1)"),
        entry("data/pocus_images/linear/Reg-two.JPG", "regular", "1", "not stated", "c.org"),  # licences disagree
        entry("data/pocus_videos/Convex/Pneu-gred-6.avi", "bacterial pneumonia", origin="b.org"),
        entry("data/pocus_videos/Convex/Vir_unlisted.mp4", "viral pneumonia"),
        entry("data/pocus_videos/other.mov", ""),
    ]
    assert (found.rejected, found.ignored) == ([], 1)
    assert [len(read_item(item)[0]) for item in found.items] == [1, 1, 5, 3, 2]
    assert np.array_equal(read_item(found.items[0])[0][0].pixels, grey(1))


def test_pocus_is_the_data_folder_too_and_needs_no_metadata(tmp_path: Path) -> None:
    files = {name.removeprefix("data/"): data for name, data in POCUS_FILES.items() if "metadata" not in name}
    found = listed(files, "pocus", tmp_path)
    assert [item.name for item in found.items][0] == "pocus_images/convex/Cov_Atlas-Day+1.png"
    assert {(item.licence, item.group) for item in found.items} == {("not stated", "unknown (no patient stated)")}


FETAL_FILES = {
    "FETAL_PLANES_DB_data.csv": b"Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train \r\n"
    b"Patient00001_Plane1_1_of_2;1;Other;Not A Brain;Op. 1;Aloka;1\r\n"
    b"Patient00001_Plane3_1_of_1;1;Fetal brain;Trans-thalamic;Op. 1;Voluson E6;1\r\n"
    b"Patient00002_Plane2_1_of_1;2;Maternal cervix;Not A Brain;Other;Other;0\r\n"
    b"Patient00003_Plane2_1_of_1;3;Fetal femur;Not A Brain;Other;Other;0\r\n",
    "Images/Patient00001_Plane1_1_of_2.png": still(1),
    "Images/Patient00001_Plane3_1_of_1.png": still(2),
    "Images/Patient00002_Plane2_1_of_1.png": still(3),
    "Images/Patient00009_Plane2_1_of_1.png": still(4),
}


@pytest.mark.parametrize("where", WHERE)
def test_fetal_planes(tmp_path: Path, where: str) -> None:
    found = listed(FETAL_FILES, "fetal_planes", tmp_path, where)

    def entry(stem: str, organ: str, label: str, group: str, device: str, split: str) -> Item:
        path = f"Images/{stem}.png"
        facts = {"group": group, "device": device, "official_split": split}
        return Item(path, path, organ, label, source="fetal_planes", licence="CC BY 4.0", **facts)

    brain = "Fetal brain: Trans-thalamic"
    assert relative(found) == [
        entry("Patient00001_Plane1_1_of_2", "fetal_other", "Other", "1", "Aloka", "train"),
        entry("Patient00001_Plane3_1_of_1", "fetal_brain", brain, "1", "Voluson E6", "train"),
        entry("Patient00002_Plane2_1_of_1", "maternal_cervix", "Maternal cervix", "2", "", "test"),
    ]
    missing, unlisted = (
        "the table names this image, Images/ lacks it",
        "Images/ holds it, the table does not name it",
    )
    assert found.rejected == [
        Rejected("Images/Patient00003_Plane2_1_of_1.png", "fetal_planes", "file", missing),
        Rejected("Images/Patient00009_Plane2_1_of_1.png", "fetal_planes", "file", unlisted),
    ]
    for number, item in enumerate(found.items, 1):
        assert np.array_equal(read_item(item)[0][0].pixels, grey(number))


def coloured(mask: Pixels, name: str) -> bytes:
    colour = np.frombuffer(bytes.fromhex(CLASSES[name][1:]), np.uint8)
    return encoded((mask > 0)[..., None] * colour)


MMOTU_FILES = {
    "MMOTU/OTU_2d/train_cls.txt": b"1.JPG  2\n3.JPG  0\n",
    "MMOTU/OTU_2d/val_cls.txt": b"2.JPG  7\n9.JPG  7\n",
    "MMOTU/OTU_2d/images/1.JPG": still(1, "JPEG"),
    "MMOTU/OTU_2d/images/2.JPG": still(2, "JPEG"),
    "MMOTU/OTU_2d/images/3.JPG": still(3, "JPEG"),
    "MMOTU/OTU_2d/images/4.JPG": still(4, "JPEG"),
    "MMOTU/OTU_2d/images/Thumbs.db": b"?",
    "MMOTU/OTU_2d/annotations/1.PNG": coloured(box(2, 3, 9, 12), "teratoma"),
    "MMOTU/OTU_2d/annotations/1_binary.PNG": encoded(box(2, 3, 9, 12)),
    "MMOTU/OTU_2d/annotations/2.PNG": coloured(box(4, 1, 6, 5), "high grade serous cystadenocarcinoma"),
    "MMOTU/OTU_CEUS/images/1.JPG": still(5, "JPEG"),
}


@pytest.mark.parametrize("where", WHERE)
def test_mmotu(tmp_path: Path, where: str) -> None:
    found = listed(MMOTU_FILES, "mmotu", tmp_path, where)

    def entry(number: int, label: str, split: str, mask: bool) -> Item:
        return Item(
            path=f"MMOTU/OTU_2d/images/{number}.JPG",
            name=f"MMOTU/OTU_2d/images/{number}.JPG",
            organ="ovary",
            label=label,
            mask_path=f"MMOTU/OTU_2d/annotations/{number}.PNG" if mask else "",
            mask_kind=found.items[0].mask_kind if mask else "",
            group="unknown (no ids)",
            source="mmotu",
            licence="not stated",
            official_split=split,
        )

    assert relative(found) == [
        entry(1, "teratoma", "train", mask=True),
        entry(2, "high grade serous cystadenocarcinoma", "val", mask=True),
        entry(3, "chocolate cyst", "train", mask=False),
        entry(4, "", "", mask=False),
    ]
    reason = "a list names this image, but images/ lacks it"
    assert found.rejected == [Rejected("MMOTU/OTU_2d/images/9.jpg", "mmotu", "file", reason)]
    assert found.ignored == 1
    for item, shape in zip(found.items[:2], (box(2, 3, 9, 12), box(4, 1, 6, 5)), strict=True):
        _, masks, names = read_item(item)
        assert names == dict(enumerate(CLASSES, 1))
        assert np.array_equal(masks[0] > 0, shape > 0)
        assert {names[number] for number in np.unique(masks[0]).tolist() if number} == {item.label}


APONEUROSIS, FASCICLE = box(2, 0, 5, 30), box(3, 6, 18, 9)
FALLMUD_FILES = {
    "FALLMUD/NeilCronin/images/img_00001.tif": still(1, "TIFF"),
    "FALLMUD/NeilCronin/aponeurosis_masks/img_00001.jpg": encoded(APONEUROSIS, "JPEG"),
    "FALLMUD/NeilCronin/fascicle_masks/img_00001.tif": encoded(FASCICLE, "TIFF"),
    "FALLMUD/NeilCronin/images/img_00002.tif": still(2, "TIFF"),
    "FALLMUD/NeilCronin/fascicle_masks/img_00002.tif": encoded(FASCICLE, "TIFF"),
    "FALLMUD/NeilCronin/images/readme.txt": b"text",
    "FALLMUD/RyanCunningham/images/0.jpg": still(3, "JPEG"),
    "FALLMUD/RyanCunningham/aponeurosis_masks/0.jpg": encoded(np.rot90(APONEUROSIS), "JPEG"),
    "FALLMUD/RyanCunningham/fascicle_masks/0.jpg": encoded(FASCICLE, "JPEG"),
    "FALLMUD/RyanCunningham/images/1.jpg": still(4, "JPEG"),
}


@pytest.mark.parametrize("where", WHERE)
def test_fallmud(tmp_path: Path, where: str) -> None:
    found = listed(FALLMUD_FILES, "fallmud", tmp_path, where)

    def entry(laboratory: str, file: str, aponeurosis: str, fascicle: str) -> Item:
        paths = [
            f"FALLMUD/{laboratory}/{kind}_masks/{mask}" if mask else ""
            for kind, mask in (("aponeurosis", aponeurosis), ("fascicle", fascicle))
        ]
        return Item(
            path=f"FALLMUD/{laboratory}/images/{file}",
            name=f"FALLMUD/{laboratory}/images/{file}",
            organ="muscle",
            mask_path="|".join(paths) if any(paths) else "",
            mask_kind="layers, threshold >127, turned: aponeurosis, fascicle" if any(paths) else "",
            group="unknown (no ids)",
            source="fallmud",
            licence="not stated",
            origin=laboratory,
        )

    assert relative(found) == [
        entry("NeilCronin", "img_00001.tif", "img_00001.jpg", "img_00001.tif"),
        entry("NeilCronin", "img_00002.tif", "", "img_00002.tif"),
        entry("RyanCunningham", "0.jpg", "0.jpg", "0.jpg"),
        entry("RyanCunningham", "1.jpg", "", ""),
    ]
    assert (found.rejected, found.ignored) == ([], 1)
    both = np.where(FASCICLE > 0, 2, np.where(APONEUROSIS > 0, 1, 0))
    for item in (found.items[0], found.items[2]):
        _, masks, names = read_item(item)
        assert np.array_equal(masks[0], both)
        assert names == {1: "aponeurosis", 2: "fascicle"}
    _, masks, names = read_item(found.items[1])
    assert np.array_equal(masks[0], 2 * (FASCICLE > 0))
    assert names == {2: "fascicle"}


LUMINOUS_FILES = {
    "B-mode/54_27_Bmode.tif": still(1, "TIFF"),
    "B-mode/7_4_Bmode.tif": still(2, "TIFF"),
    "B-mode/7_14_Bmode.tif": still(3, "TIFF"),
    "B-mode/names.xlsx": b"?",
    "Masks/54_27_Mask1.tif": encoded(box(2, 2, 8, 8), "TIFF"),
    "Masks/54_27_Mask2.tif": encoded(box(2, 15, 8, 22), "TIFF"),
    "Masks/7_4_Mask.tif": encoded(box(5, 5, 9, 9), "TIFF"),
}


@pytest.mark.parametrize("where", WHERE)
def test_luminous(tmp_path: Path, where: str) -> None:
    found = listed(LUMINOUS_FILES, "luminous", tmp_path, where)

    def entry(stem: str, *masks: str) -> Item:
        return Item(
            path=f"B-mode/{stem}_Bmode.tif",
            name=f"B-mode/{stem}_Bmode.tif",
            organ="muscle",
            mask_path="|".join(f"Masks/{stem}_{mask}.tif" for mask in masks),
            mask_kind="binary tif: lumbar multifidus" if masks else "",
            group=stem.partition("_")[0],
            source="luminous",
            licence="not stated",
            device="GE Logiq e",
        )

    assert relative(found) == [entry("54_27", "Mask1", "Mask2"), entry("7_14"), entry("7_4", "Mask")]
    assert (found.rejected, found.ignored) == ([], 1)
    (frame,), masks, names = read_item(found.items[0])
    assert np.array_equal(frame.pixels, grey(1))
    assert np.array_equal(masks[0], (box(2, 2, 8, 8) | box(2, 15, 8, 22)) > 0)
    assert names == {1: "lumbar multifidus"}
    assert np.array_equal(read_item(found.items[2])[1][0], box(5, 5, 9, 9) > 0)


def kidney_table(*lines: tuple[str, str, str, list[list[int]]]) -> bytes:
    """Lines (file, view, anatomy, corners) of a VGG Image Annotator table."""
    text = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    for file, view, anatomy, points in lines:
        shape: dict[str, object] = {"name": "polygon"} if points else {}
        for name, values in zip(("all_points_x", "all_points_y"), zip(*points, strict=True), strict=False):
            shape[name] = list(values)
        attributes = {"Quality": "Fair", "View": view, "Comments": 'n/a, "x"'}
        parts = [json.dumps(part).replace('"', '""') for part in (attributes, shape, {"Anatomy": anatomy})]
        text += f'{file},1000,"{parts[0]}",4,0,"{parts[1]}","{parts[2]}"\n'
    return text.encode()


KIDNEY_FILES = {
    "labels/reviewed_labels_1.csv": kidney_table(
        ("1_IM-0001-0059_anon.png", "Transverse", "Cortex", corners(4, 5, 10, 12)),
        ("1_IM-0001-0059_anon.png", "Transverse", "Capsule", corners(2, 3, 15, 20)),
        ("1_IM-0001-0059_anon.png", "Transverse", "Central Echo Complex", corners(6, 6, 8, 9)),
        ("2_IM-0383-0001_anon.png", "Longitudinal", "", []),
    ),
    "labels/reviewed_labels_2.csv": kidney_table(
        ("1_IM-0001-0059_anon.png", "Other", "Capsule", corners(0, 0, 5, 5)),
        ("2_IM-0383-0001_anon.png", "Other", "Medulla", corners(1, 1, 5, 6)),
    ),
    "images/1_IM-0001-0059_anon.png": still(1),
    "images/2_IM-0383-0001_anon.png": still(2),
    "images/507_IM-0001-0059_anon.png": still(1),
    "images/notes.txt": b"text",
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("folder", ["images", "labels/images"])
def test_kidneyus(tmp_path: Path, where: str, folder: str) -> None:
    files = {name.replace("images/", f"{folder}/"): data for name, data in KIDNEY_FILES.items()}
    found = listed(files, "kidneyus", tmp_path, where)

    def entry(file: str, view: str, table: str) -> Item:
        kind = f'polygons kidneyus-csv file="{file}": capsule, cortex, medulla, central echo complex'
        return Item(
            path=f"{folder}/{file}",
            name=f"{folder}/{file}",
            organ="kidney",
            label=view,
            mask_path=f"labels/{table}" if table else "",
            mask_kind=kind if table else "",
            group=file.partition("_")[2].removesuffix(".png"),
            source="kidneyus",
            licence="CC BY-NC-SA 4.0",
        )

    assert relative(found) == [
        entry("1_IM-0001-0059_anon.png", "Transverse", "reviewed_labels_1.csv"),
        entry("2_IM-0383-0001_anon.png", "Longitudinal", "reviewed_labels_2.csv"),
        entry("507_IM-0001-0059_anon.png", "", ""),
    ]
    assert (found.rejected, found.ignored) == ([], 1)
    _, masks, names = read_item(found.items[0])
    oracle = (box(2, 3, 15, 20) > 0).astype(np.uint8)
    oracle[4:10, 5:12] = 2
    oracle[6:8, 6:9] = 4
    assert np.array_equal(masks[0], oracle)
    assert names == {1: "capsule", 2: "cortex", 3: "medulla", 4: "central echo complex"}
    assert np.array_equal(read_item(found.items[1])[1][0], 3 * (box(1, 1, 5, 6) > 0))


LIVER, MASS = json.dumps(corners(2, 3, 18, 25)).encode(), json.dumps(corners(5, 6, 9, 12)).encode()
AUL_FILES = {
    "Benign/image/1.jpg": still(1, "JPEG"),
    "Benign/segmentation/liver/1.json": LIVER,
    "Benign/segmentation/mass/1.json": MASS,
    "Benign/segmentation/outline/1.json": b"[[0, 0], [29, 0], [29, 19]]",
    "Malignant/image/229.jpg": still(2, "JPEG"),
    "Malignant/segmentation/mass/229.json": MASS,
    "Malignant/segmentation/outline/229.json": LIVER,
    "Malignant/image/374.jpg": still(3, "JPEG"),
    "Malignant/segmentation/mass/374.json": MASS,
    "Malignant/segmentation/outline/374.json": b"[[0, 0], [29, 0], [29, 19]]",
    "Normal/image/9.jpg": still(4, "JPEG"),
    "Normal/image/Thumbs.db": b"?",
    "Normal/segmentation/liver/9.json": LIVER,
}


@pytest.mark.parametrize("where", WHERE)
def test_aul(tmp_path: Path, where: str) -> None:
    found = listed(AUL_FILES, "aul", tmp_path, where)

    def entry(category: str, stem: str, liver: str, mass: str) -> Item:
        paths = [f"{category}/segmentation/{folder}/{stem}.json" if folder else "" for folder in (liver, mass)]
        return Item(
            path=f"{category}/image/{stem}.jpg",
            name=f"{category}/image/{stem}.jpg",
            organ="liver",
            label=category,
            mask_path="|".join(paths),
            mask_kind="polygons json: liver, mass",
            group=f"{category} {stem}",
            source="aul",
            licence="CC BY 4.0",
        )

    assert relative(found) == [
        entry("Benign", "1", "liver", "mass"),
        entry("Malignant", "229", "outline", "mass"),
        entry("Malignant", "374", "", "mass"),
        entry("Normal", "9", "liver", ""),
    ]
    assert (found.rejected, found.ignored) == ([], 1)
    liver, mass = box(2, 3, 18, 25) > 0, box(5, 6, 9, 12) > 0
    items = by_name(found)
    for name in ("Benign/image/1.jpg", "Malignant/image/229.jpg"):
        _, masks, names = read_item(items[name])
        assert np.array_equal(masks[0], np.where(mass, 2, liver))
        assert names == {1: "liver", 2: "mass"}
    assert np.array_equal(read_item(items["Normal/image/9.jpg"])[1][0], liver)
    _, masks, names = read_item(items["Malignant/image/374.jpg"])
    assert np.array_equal(masks[0], 2 * mass)
    assert names == {2: "mass"}


@pytest.mark.parametrize(
    ("source", "files", "reason"),
    [
        (POCUS, {"images/a.png": b""}, "no data/pocus_images or data/pocus_videos or pocus_images or pocus_videos"),
        (FETAL_PLANES, {"Images/a.png": b""}, "no FETAL_PLANES_DB_data.csv there; expected\nImages/"),
        (
            FETAL_PLANES,
            {"Images/a.png": b"", "FETAL_PLANES_DB_data.csv": b"Image_name,Plane\n"},
            "lacks the columns Patient_num, Brain_plane, US_Machine, Train; it has Image_name, Plane",
        ),
        (MMOTU, {"images/a.png": b"", "annotations/a.png": b""}, "no OTU_2d/train_cls.txt or OTU_2d/val_cls.txt"),
        (MMOTU, {"OTU_2d/train_cls.txt": b"", "OTU_2d/images/a.png": b""}, "OTU_2d lacks annotations; expected"),
        (FALLMUD, {"NeilCronin/fascicle_masks/a.png": b""}, "no NeilCronin/images or RyanCunningham/images there"),
        (LUMINOUS, {"B-mode/1_2_Bmode.tif": b""}, "no Masks there; expected\nB-mode/54_27_Bmode.tif"),
        (LUMINOUS, {"B-mode/a.tif": b"", "Masks/a.tif": b""}, "holds no <number>_<number>_Bmode.tif"),
        (KIDNEYUS, {"images/a.png": b""}, "no labels/reviewed_labels_1.csv there"),
        (KIDNEYUS, {"labels/reviewed_labels_1.csv": b"", "x/y": b""}, "no labels/images or images there"),
        (
            KIDNEYUS,
            {"labels/reviewed_labels_1.csv": b"filename\n", "images/y": b""},
            "lacks the columns file_attributes, region_shape_attributes, region_attributes",
        ),
        (
            AUL,
            {"Benign/image/a.jpg": b"", "Malignant/image/a.jpg": b""},
            "no Benign/segmentation and Malignant/seg",
        ),
    ],
)
def test_another_layout_is_refused_with_what_is_missing(
    tmp_path: Path, source: Source, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        source.check(locate(lay_out(files, "folder", tmp_path)))


def test_a_broken_table_of_polygons_is_named(tmp_path: Path) -> None:
    table = KIDNEY_FILES["labels/reviewed_labels_1.csv"].replace(b"all_points_y", b"all_points_z", 1)
    with pytest.raises(DataError, match=r"reviewed_labels_1.csv: line 2 of the polygons' table cannot be read"):
        listed(KIDNEY_FILES | {"labels/reviewed_labels_1.csv": table}, "kidneyus", tmp_path)
