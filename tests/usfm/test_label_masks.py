import csv
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy.ndimage import binary_fill_holes

from usfm.data.readers.label_masks import fit_mask, masks_each_frame, read_mask, read_masks
from usfm.data.readers.mask_kinds import option
from usfm.errors import UnreadableFile


def encode(pixels: npt.NDArray[np.uint8], form: str = "PNG", mode: str | None = None) -> bytes:
    stream = BytesIO()
    image = Image.fromarray(pixels)
    if mode == "P":
        palette = Image.new("P", image.size)
        palette.putdata(pixels.ravel().tolist())
        palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image = palette
    image.save(stream, form)
    return stream.getvalue()


SQUARES = np.zeros((16, 24), np.uint8)
SQUARES[2:6, 2:8] = 1
SQUARES[9:14, 12:20] = 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("binary png 0/255 head ellipse (filled)", "head ellipse"),
        ("binary png lumen/artery (expert)", "lumen/artery"),
        ("binary png", "foreground"),
        ("binary", "foreground"),
    ],
)
def test_binary(kind: str, name: str) -> None:
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    mask, names = read_mask(encode(levels), kind)
    assert mask.tolist() == [[0, 0, 1, 1]]
    assert names == {1: name}


def test_binary_in_three_channels_is_the_same() -> None:
    colour = np.repeat((SQUARES > 0).astype(np.uint8)[..., None] * 255, 3, axis=2)
    mask, _ = read_mask(encode(colour), "binary png")
    assert np.array_equal(mask, SQUARES > 0)


def test_jpeg_with_threshold() -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[16:48, 8:40] = 1
    mask, names = read_mask(encode(truth * 255, "JPEG"), "jpg, threshold >127: union of LV+myocardium+LA")
    assert np.array_equal(mask, truth)
    assert names == {1: "LV+myocardium+LA"}


@pytest.mark.parametrize("mode", [None, "P"])
def test_index(mode: str | None) -> None:
    mask, names = read_mask(
        encode(SQUARES, mode=mode), "index png: 0 bg, 1 nerve, 2 vessel (inferred from intensity)"
    )
    assert np.array_equal(mask, SQUARES)
    assert names == {1: "nerve", 2: "vessel"}


def test_rgb() -> None:
    colours = np.array([[0, 0, 0], [0, 255, 0], [255, 0, 0]], np.uint8)
    mask, names = read_mask(encode(colours[SQUARES]), "RGB png: green benign mass, red malignant mass")
    assert np.array_equal(mask, SQUARES)
    assert names == {1: "benign mass", 2: "malignant mass"}


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (encode(SQUARES), "contours in XML", "unknown mask_kind 'contours in XML'; known ones begin with binary"),
        (encode(SQUARES), "", "unknown mask_kind ''"),
        (
            encode(SQUARES * 127),
            "index png: 0 bg, 1 nerve",
            "holds the values [127, 254]; its mask_kind names [0, 1]",
        ),
        (
            encode(np.zeros((4, 4, 3), np.uint8)),
            "index png: 0 bg, 1 nerve",
            "has one channel of numbers, this one is RGB",
        ),
        (encode(SQUARES), "index png", "names no classes"),
        (encode(SQUARES), "RGB png", "names no colours"),
        (encode(SQUARES), "jpg: thing", "states no threshold"),
        (encode(np.full((4, 4, 3), 255, np.uint8)), "RGB png: green benign", "16 pixels of the mask have a colour"),
        (b"", "binary", "empty (0 bytes)"),
        (b"no image", "binary", "not an image"),
        (encode(SQUARES)[:60], "binary", "damaged mask"),
    ],
)
def test_bad_masks_say_why(data: bytes, kind: str, reason: str) -> None:
    with pytest.raises(UnreadableFile) as caught:
        read_mask(data, kind)
    assert reason in str(caught.value)


def ellipse(
    width_px: int = 1, centre: tuple[int, int] = (60, 50), axes: tuple[int, int] = (40, 25)
) -> npt.NDArray[np.uint8]:
    contour = np.zeros((100, 120), np.uint8)
    cv2.ellipse(contour, centre, axes, 20, 0, 360, 255, width_px)
    return contour


@pytest.mark.parametrize("width_px", [1, 2, 3])
def test_outline_is_filled_with_itself(width_px: int) -> None:
    contour = ellipse(width_px)
    mask, names = read_mask(encode(contour), "outline png: head")
    assert np.array_equal(mask, binary_fill_holes(contour > 0))
    assert names == {1: "head"}


@pytest.mark.parametrize("centre", [(20, 50), (60, 8), (105, 50), (60, 90)])
def test_outline_that_the_border_cuts(centre: tuple[int, int]) -> None:
    wide = np.zeros((300, 320), np.uint8)
    cv2.ellipse(wide, (centre[0] + 100, centre[1] + 100), (40, 25), 20, 0, 360, 255, 1)
    oracle = binary_fill_holes(wide > 0)[100:200, 100:220]
    contour = np.ascontiguousarray(wide[100:200, 100:220])
    assert np.array_equal(read_mask(encode(contour), "outline png: head")[0], oracle)


@pytest.mark.parametrize("gap", [(slice(49, 51), slice(0, 60)), (slice(0, 100), slice(59, 61))])
def test_outline_open_by_a_pixel_or_two_is_bridged(gap: tuple[slice, slice]) -> None:
    contour = ellipse(1)
    oracle = binary_fill_holes(contour > 0)
    contour[gap] = 0
    mask, _ = read_mask(encode(contour), "outline png: head")
    assert np.count_nonzero(mask != oracle) <= 12
    assert mask.sum() > 0.99 * oracle.sum()


def test_outline_that_ends_one_pixel_before_the_border() -> None:
    contour = ellipse(1, (20, 50))
    oracle = read_mask(encode(contour), "outline png: head")[0]
    contour[:, 0] = 0
    mask, _ = read_mask(encode(contour), "outline png: head")
    assert np.count_nonzero(mask != oracle) <= 6


def test_outlines_of_real_heads_are_filled(corpus: Path) -> None:
    """Filled masks of the corpus, turned back into the contours that HC18 publishes."""
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        paths = [row["mask_path"] for row in csv.DictReader(stream) if row["source"] == "hc18_fetal_head"]
    assert len(paths) > 400
    for path in filter(None, paths[::20]):
        head = (np.asarray(Image.open(corpus / path).convert("L")) > 127).astype(np.uint8)
        contour = np.zeros_like(head)
        cv2.drawContours(contour, cv2.findContours(head, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, 255, 1)
        inner_border = head - cv2.erode(head, np.ones((3, 3), np.uint8), borderValue=1)  # cut heads stay open
        for line in (contour, inner_border * np.uint8(255)):
            assert np.array_equal(read_mask(encode(line), "outline png: head")[0], head), path


def half(contour: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    contour[:, 60:] = 0
    return contour


@pytest.mark.parametrize(
    ("contour", "reason"),
    [
        (half(ellipse(2)), "the contour is open, it encloses nothing"),
        (np.zeros((50, 50), np.uint8), "empty: no pixel above 127"),
        (np.full((50, 50), 255, np.uint8), "encloses nothing"),
    ],
)
def test_outline_that_encloses_nothing_is_refused(contour: npt.NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read_mask(encode(contour), "outline png: head")


def volume(array: npt.NDArray[np.generic], folder: Path, name: str) -> bytes:
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name))
    return (folder / name).read_bytes()


SEQUENCE = np.stack([SQUARES, SQUARES.T[:16, :16].repeat(2, axis=1)[:, :24], 2 * (SQUARES > 1)]).astype(np.uint8)


@pytest.mark.parametrize("name", ["gt.nii.gz", "gt.nii", "gt.mha", "gt.mhd"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_index_volume(tmp_path: Path, name: str, kind: type[np.generic]) -> None:
    data = volume(SQUARES[None].astype(kind), tmp_path, name)
    mask, names = read_mask(
        data, "index volume: 0 bg, 1 lv, 2 la", None, name, lambda n: (tmp_path / n).read_bytes()
    )
    assert np.array_equal(mask, SQUARES)
    assert mask.dtype == np.uint8
    assert names == {1: "lv", 2: "la"}


def test_index_volume_takes_the_frame_that_is_meant(tmp_path: Path) -> None:
    data = volume(SEQUENCE, tmp_path, "gt.nii.gz")
    for number, frame in enumerate(SEQUENCE):
        assert np.array_equal(read_mask(data, f"index volume frame={number}: 0 bg, 1 lv, 2 la")[0], frame)
        each = read_mask(data, "index volume frame=each: 0 bg, 1 lv, 2 la", frame=number)
        assert np.array_equal(each[0], frame)
    assert masks_each_frame("index volume frame=each: 0 bg, 1 lv")
    assert not masks_each_frame("index volume frame=2: 0 bg, 1 each")


@pytest.mark.parametrize(
    ("kind", "frame", "reason"),
    [
        ("index volume: 0 bg, 1 lv, 2 la", 1, "the mask has 3 frames; say which one"),
        ("index volume frame=3: 0 bg, 1 lv, 2 la", None, "the mask has 3 frames, none with number 3"),
        ("index volume frame=each: 0 bg, 1 lv, 2 la", None, "no frame was asked for"),
        ("index volume frame=two: 0 bg, 1 lv", None, "states frame=two; expected a number"),
        ("index volume frame=0: 0 bg, 1 lv", None, r"holds the values \[2\]; its mask_kind names \[0, 1\]"),
    ],
)
def test_bad_index_volumes_say_why(tmp_path: Path, kind: str, frame: int | None, reason: str) -> None:
    data = volume(SEQUENCE, tmp_path, "gt.nii.gz")
    with pytest.raises(UnreadableFile, match=reason):
        read_mask(data, kind, frame=frame)


def test_index_volume_of_fractions_colours_or_rubbish_is_refused(tmp_path: Path) -> None:
    kind = "index volume: 0 bg, 1 lv, 2 la"
    with pytest.raises(UnreadableFile, match=r"holds the values \[0.5\]"):
        read_mask(volume(SQUARES[None] * np.float32(0.5) * (SQUARES < 2), tmp_path, "half.nii.gz"), kind)
    rgb = sitk.GetImageFromArray(np.zeros((2, 8, 8, 3), np.uint8), isVector=True)
    sitk.WriteImage(rgb, str(tmp_path / "rgb.mha"))
    with pytest.raises(UnreadableFile, match="has several"):
        read_mask((tmp_path / "rgb.mha").read_bytes(), kind)
    with pytest.raises(UnreadableFile, match="no NIfTI"):
        read_mask(encode(SQUARES), kind)


def test_exact_colours() -> None:
    colours = np.array([[0, 0, 0], [64, 0, 0], [0, 0, 64]], np.uint8)
    picture = colours[SQUARES]
    kind = "colours png: #400000 chocolate cyst, #004000 serous cystadenoma, #000040 teratoma"
    mask, names = read_mask(encode(picture), kind)
    assert np.array_equal(mask, np.array([0, 1, 3])[SQUARES])
    assert names == {1: "chocolate cyst", 2: "serous cystadenoma", 3: "teratoma"}
    picture[0, 0] = 9  # one stray pixel of 384
    assert np.array_equal(read_mask(encode(picture), kind)[0], mask)
    picture[0, :5] = 9
    with pytest.raises(UnreadableFile, match="5 pixels of the mask have a colour"):
        read_mask(encode(picture), kind)


def files(**contents: bytes) -> dict[str, bytes]:
    return {f"/archive/{name.replace('_', '.')}": data for name, data in contents.items()}


def test_several_binary_masks_are_united() -> None:
    found = files(a_png=encode((SQUARES == 1) * np.uint8(255)), b_png=encode((SQUARES == 2) * np.uint8(255)))
    mask, names = read_masks("|".join(found), "binary png: lesion", None, found.__getitem__)
    assert np.array_equal(mask, SQUARES > 0)
    assert names == {1: "lesion"}
    assert np.array_equal(read_masks("/archive/b.png", "binary", None, found.__getitem__)[0], SQUARES == 2)


def test_layers_are_the_classes_in_their_order() -> None:
    first = np.zeros((16, 24), np.uint8)
    second = first.copy()
    first[2:8, 2:12], second[5:12, 8:20] = 255, 200
    found = files(a_jpg=encode(first), b_tif=encode(second, "TIFF"))
    kind = "layers, threshold >127, turned: aponeurosis, fascicle"
    mask, names = read_masks("/archive/a.jpg|/archive/b.tif", kind, (16, 24), found.__getitem__)
    assert np.array_equal(mask, np.where(second > 0, 2, np.where(first > 0, 1, 0)))
    assert names == {1: "aponeurosis", 2: "fascicle"}
    mask, names = read_masks("|/archive/b.tif", kind, (16, 24), found.__getitem__)
    assert np.array_equal(mask, 2 * (second > 0))
    assert names == {2: "fascicle"}


def test_a_turned_layer_is_turned_back() -> None:
    truth = (SQUARES == 2).astype(np.uint8)
    found = files(a_png=encode(np.rot90(truth) * np.uint8(255)), b_png=encode(truth * np.uint8(255)))
    kind = "layers, threshold >127, turned: a, b"
    for path in found:
        assert np.array_equal(read_masks(path, kind, (16, 24), found.__getitem__)[0], truth)
    as_stored, _ = read_masks("/archive/a.png", kind.replace(", turned", ""), (16, 24), found.__getitem__)
    assert as_stored.shape == (24, 16)


TRIANGLE = b"[[2, 2], [14, 2], [2, 14]]"
INNER = b"[[3, 3], [7, 3], [7, 7], [3, 7]]"


def test_json_polygons_are_layers() -> None:
    found = files(liver_json=TRIANGLE, mass_json=INNER)
    mask, names = read_masks("|".join(found), "polygons json: liver, mass", (16, 24), found.__getitem__)
    oracle = np.add.outer(np.arange(16), np.arange(24)) < 16
    oracle[:2] = oracle[:, :2] = False
    assert np.array_equal(mask > 0, oracle)
    assert np.argwhere(mask == 2).tolist() == [[y, x] for y in range(3, 7) for x in range(3, 7)]
    assert names == {1: "liver", 2: "mass"}
    liver = read_masks("/archive/liver.json|", "polygons json: liver, mass", (16, 24), found.__getitem__)
    assert np.array_equal(liver[0], oracle)
    assert liver[1] == {1: "liver"}


def test_ddti_polygons() -> None:
    points = "".join(f'{{"x": {x}, "y": {y}}},' for x, y in [(3, 3), (7, 3), (7, 7), (3, 7)]).rstrip(",")
    svg = f'[{{"points": [{points}], "annotation": null, "regionType": "freehand"}}]'
    xml = f"<case><mark><image>1</image><svg/></mark><mark><image>2</image><svg>{svg}</svg></mark></case>"
    mask, names = read_mask(xml.encode(), "polygons ddti-xml image=2: nodule", (16, 24))
    assert np.argwhere(mask == 1).tolist() == [[y, x] for y in range(3, 7) for x in range(3, 7)]
    assert names == {1: "nodule"}
    with pytest.raises(UnreadableFile, match="needs the size of the image"):
        read_mask(xml.encode(), "polygons ddti-xml image=2: nodule")
    with pytest.raises(UnreadableFile, match="no polygon for image 1"):
        read_mask(xml.encode(), "polygons ddti-xml image=1: nodule", (16, 24))


KIDNEYUS = """filename,region_shape_attributes,region_attributes
a b.png,"{""name"":""polygon"",""all_points_x"":[3,7,7,3],""all_points_y"":[3,3,7,7]}","{""Anatomy"":""Cortex""}"
a b.png,"{""name"":""polygon"",""all_points_x"":[1,12,12,1],""all_points_y"":[1,1,9,9]}","{""Anatomy"":""Capsule""}"
a b.png,"{""name"":""polygon"",""all_points_x"":[0,23,23,0],""all_points_y"":[0,0,15,15]}","{""Anatomy"":""Other""}"
"""


def test_kidneyus_regions_lie_in_the_order_of_the_kind() -> None:
    kind = 'polygons kidneyus-csv file="a b.png": capsule, cortex, medulla'
    mask, names = read_mask(KIDNEYUS.encode(), kind, (16, 24))
    oracle = np.zeros((16, 24), np.uint8)
    oracle[1:9, 1:12] = 1
    oracle[3:7, 3:7] = 2
    assert np.array_equal(mask, oracle)
    assert names == {1: "capsule", 2: "cortex", 3: "medulla"}
    with pytest.raises(UnreadableFile, match=r"no line for the image 'c.png'"):
        read_mask(KIDNEYUS.encode(), "polygons kidneyus-csv file=c.png: capsule", (16, 24))
    with pytest.raises(UnreadableFile, match="no polygon is drawn"):
        read_mask(KIDNEYUS.encode(), 'polygons kidneyus-csv file="a b.png": medulla', (16, 24))


TRACINGS = "FileName,X1,Y1,X2,Y2,Frame\nv.avi,6,0,6,15,4\nv.avi,3,2,9,2,4\nv.avi,3,12,9,12,4\n"


def test_echonet_tracing() -> None:
    mask, names = read_mask(TRACINGS.encode(), "polygons echonet-csv file=v.avi frame=4: left ventricle", (16, 24))
    assert np.argwhere(mask).tolist() == [[y, x] for y in range(2, 12) for x in range(3, 9)]
    assert names == {1: "left ventricle"}
    with pytest.raises(UnreadableFile, match=r"frame 5 of 'v.avi' has no tracing; traced: \[4\]"):
        read_mask(TRACINGS.encode(), "polygons echonet-csv file=v.avi frame=5: lv", (16, 24))


def test_a_table_is_read_once_until_it_changes(tmp_path: Path) -> None:
    table = tmp_path / "VolumeTracings.csv"
    table.write_text(TRACINGS)
    reads: list[str] = []

    def read(path: str) -> bytes:
        reads.append(path)
        return Path(path).read_bytes()

    kind = "polygons echonet-csv file=v.avi frame=4: left ventricle"
    masks = [read_masks(str(table), kind, (16, 24), read)[0] for _ in range(3)]
    assert len(reads) == 1
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    table.write_text(TRACINGS + "v.avi,3,14,9,14,4\n")
    assert read_masks(str(table), kind, (16, 24), read)[0].sum() == 6 * 12
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("paths", "kind", "reason"),
    [
        ("/archive/a.png|/archive/small.png", "binary png", r"different sizes: \(16, 24\) and \(4, 4\)"),
        ("/archive/a.png|/archive/a.png", "index png: 0 bg, 1 a, 2 b", "only binary masks and layers are united"),
        ("/archive/a.png|/archive/a.png", "layers, threshold >0: one", "2 mask files, but mask_kind"),
        ("|", "layers, threshold >0: one, two", "no mask file is given"),
        ("/archive/a.png", "layers, threshold >0", "names no classes"),
        ("/archive/a.png", "layers: one", "states no threshold"),
    ],
)
def test_bad_unions_say_why(paths: str, kind: str, reason: str) -> None:
    found = files(a_png=encode(SQUARES), small_png=encode(np.ones((4, 4), np.uint8)))
    with pytest.raises(UnreadableFile, match=reason):
        read_masks(paths, kind, (16, 24), found.__getitem__)


def test_options_of_a_kind() -> None:
    kind = 'polygons x file="a b: c.png" frame=12: name file=d'
    assert (option(kind, "file"), option(kind, "frame"), option(kind, "image")) == ("a b: c.png", "12", "")
    assert option("polygons kidneyus-csv file=a.png: capsule", "file") == "a.png"


def test_fit_samples_pixel_centres() -> None:
    mask = (np.arange(64, dtype=np.uint8).reshape(8, 8)) % 5
    fitted = fit_mask(mask, (8, 8), (4, 4))
    oracle = mask[[1, 3, 5, 7]][:, [1, 3, 5, 7]]  # centre of a 2 x 2 block: floor((i + 0.5) * 2)
    assert np.array_equal(fitted, oracle)


def test_fit_makes_no_new_classes_and_keeps_areas() -> None:
    mask = np.kron(SQUARES, np.ones((30, 30), np.uint8))
    fitted = fit_mask(mask, mask.shape, (96, 144))
    assert fitted.shape == (96, 144)
    assert set(np.unique(fitted)) == {0, 1, 2}
    for number in (1, 2):
        assert (fitted == number).mean() == pytest.approx((mask == number).mean())


def test_fit_allows_another_scale_but_no_other_proportions() -> None:
    assert fit_mask(np.ones((270, 400), np.uint8), (540, 800), (135, 200)).shape == (135, 200)
    assert fit_mask(np.ones((270, 399), np.uint8), (540, 800), (135, 200)).shape == (135, 200)
    with pytest.raises(UnreadableFile, match="400 x 400 pixels, its image 800 x 540: other proportions"):
        fit_mask(np.ones((400, 400), np.uint8), (540, 800), (135, 200))


def test_every_mask_kind_of_the_corpus(corpus: Path) -> None:
    """One mask of each kind and source, against the plain reading of its file."""
    with (corpus / "manifest.csv").open(encoding="utf-8") as stream:
        lines = {(row["source"], row["mask_kind"]): row for row in csv.DictReader(stream) if row["mask_path"]}
    assert len(lines) == 7
    for (source, kind), row in lines.items():
        mask, names = read_mask((corpus / row["mask_path"]).read_bytes(), kind)
        pixels = np.asarray(Image.open(corpus / row["mask_path"]))
        plain = pixels if source == "usgra_nerve_vessel" else pixels.reshape(*pixels.shape[:2], -1).max(-1) > 127
        assert np.array_equal(mask > 0, plain > 0)
        assert 0 < (mask > 0).mean() < 0.9
        assert set(np.unique(mask)) <= {0, *names}
        if row["label"].startswith(("benign", "malignant")):  # the colour agrees with the label
            present = {names[int(number)] for number in np.unique(mask) if number}
            assert present == {row["label"]}
