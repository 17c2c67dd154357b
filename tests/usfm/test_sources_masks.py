"""The masks that the adapters name are read as their publishers mean them."""

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from source_miniatures import MINIATURES, lay_out
from source_reading import WHERE, read_item

from usfm.data.sources.table import find_items

Pixels = npt.NDArray[np.uint8]
SIZE = (60, 80)


def encoded(pixels: Pixels, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1])


def speckle() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, SIZE).astype(np.uint8)


def box(top: int, left: int, bottom: int, right: int) -> Pixels:
    """A box (60, 80) of ones on zeros, bottom and right excluded."""
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def overlap(one: Pixels, two: Pixels) -> float:
    """Intersection over union."""
    return float(np.count_nonzero(one & two) / np.count_nonzero(one | two))


def only_mask(files: dict[str, bytes], where: str, folder: Path, name: str) -> tuple[Pixels, dict[int, str]]:
    found = find_items(lay_out(files, where, folder))
    (item,) = [item for item in found.items if item.name.endswith(name)]
    frames, masks, names = read_item(item)
    assert len(frames) == 1
    assert frames[0].pixels.shape == SIZE
    return masks[0], names


@pytest.mark.parametrize("where", WHERE)
def test_busi_lesions_are_united(where: str, tmp_path: Path) -> None:
    one, two = box(5, 5, 20, 20), box(30, 40, 50, 70)
    files = {
        "benign/benign (1).png": encoded(speckle()),
        "benign/benign (1)_mask.png": encoded(one * 255),
        "benign/benign (1)_mask_1.png": encoded(two * 255),
        "malignant/malignant (1).png": encoded(speckle()),
    }
    mask, names = only_mask(files, where, tmp_path, "benign (1).png")
    assert names == {1: "lesion"}
    assert np.array_equal(mask, one | two)


def test_busuclm_colours_are_classes(tmp_path: Path) -> None:
    benign, malignant = box(5, 5, 20, 20), box(30, 40, 50, 70)
    colours = np.stack([np.zeros(SIZE, np.uint8), benign * 255, malignant * 255], axis=2)  # blue, green, red
    files = {
        **MINIATURES["busuclm"],
        "images/ANFO_005.png": encoded(speckle()),
        "masks/ANFO_005.png": encoded(colours),
    }
    mask, names = only_mask(files, "folder", tmp_path, "ANFO_005.png")
    assert names == {1: "benign", 2: "malignant"}
    assert np.array_equal(mask, benign + 2 * malignant)


@pytest.mark.parametrize("where", WHERE)
def test_ddti_polygons_are_filled(where: str, tmp_path: Path) -> None:
    corners = [{"x": x, "y": y} for x, y in ((10, 15), (60, 15), (60, 45), (10, 45))]
    other = [{"x": x, "y": y} for x, y in ((0, 0), (5, 0), (5, 5))]
    marks = "".join(
        f"<mark><image>{image}</image><svg>{json.dumps([{'points': points}])}</svg></mark>"
        for image, points in ((1, other), (2, corners))
    )
    files = {
        "7.xml": f"<case><number>7</number><tirads>5</tirads>{marks}</case>".encode(),
        "7_1.jpg": encoded(speckle(), ".jpg"),
        "7_2.jpg": encoded(speckle(), ".jpg"),
    }
    mask, names = only_mask(files, where, tmp_path, "7_2.jpg")
    assert names == {1: "nodule"}
    assert overlap(mask, box(15, 10, 46, 61)) > 0.9


def test_tn3k_masks_are_thresholded(tmp_path: Path) -> None:
    nodule = box(10, 10, 40, 60)
    files = {
        **MINIATURES["tn3k"],
        "test-image/0000.jpg": encoded(speckle(), ".jpg"),
        "test-mask/0000.jpg": encoded(nodule * 255, ".jpg"),
    }
    mask, names = only_mask(files, "folder", tmp_path, "test-image/0000.jpg")
    assert names == {1: "nodule"}
    assert overlap(mask, nodule) > 0.95


def test_hc18_outline_is_filled(tmp_path: Path) -> None:
    outline, head = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    cv2.ellipse(outline, (40, 30), (30, 20), 15, 0, 360, 255, 1)
    cv2.ellipse(head, (40, 30), (30, 20), 15, 0, 360, 1, -1)
    files = {
        **MINIATURES["hc18"],
        "training_set/000_HC.png": encoded(speckle()),
        "training_set/000_HC_Annotation.png": encoded(outline),
    }
    mask, names = only_mask(files, "folder", tmp_path, "training_set/000_HC.png")
    assert names == {1: "head"}
    assert overlap(mask, head) > 0.95
