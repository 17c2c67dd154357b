"""Masks of several files: united, or layers whose order is that of their classes."""

import numpy as np
import pytest
from mask_factory import SQUARES, encode, files

from usfm.data.readers.label_masks import read_masks
from usfm.errors import UnreadableFile


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
