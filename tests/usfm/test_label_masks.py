"""Masks that are pictures: levels, class numbers and colours, and how they are fitted to their image."""

import csv
from pathlib import Path

import numpy as np
import pytest
from mask_factory import SQUARES, encode
from PIL import Image

from usfm.data.readers.label_masks import fit_mask, read_mask
from usfm.data.readers.mask_kinds import option
from usfm.errors import UnreadableFile


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
