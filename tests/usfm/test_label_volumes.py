"""Masks that are volumes of class numbers, and the frame of them that is meant."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from mask_factory import SQUARES, encode

from usfm.data.readers.label_masks import masks_each_frame, read_mask
from usfm.errors import UnreadableFile


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
