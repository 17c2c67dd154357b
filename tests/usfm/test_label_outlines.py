"""Masks that are drawn as outlines: filled, closed where they are nearly closed, or refused."""

import csv
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from mask_factory import encode
from PIL import Image
from scipy.ndimage import binary_fill_holes

from usfm.data.readers.label_masks import read_mask
from usfm.errors import UnreadableFile


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
