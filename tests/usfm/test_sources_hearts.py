from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from media_factory import clip
from source_miniatures import lay_out
from source_reading import WHERE, by_name, listed, read_item, relative

from usfm.data.location import locate
from usfm.data.schema import Item, Rejected
from usfm.data.sources.camus import CAMUS
from usfm.data.sources.echonet import ECHONET
from usfm.errors import DataError

Pixels = npt.NDArray[np.uint8]
CLASSES = "0 background, 1 left ventricle, 2 myocardium, 3 left atrium"
NAMES = {1: "left ventricle", 2: "myocardium", 3: "left atrium"}


def heart(number: int) -> tuple[Pixels, Pixels]:
    """A picture (20, 16) and its mask, other ones for each number."""
    picture = np.random.default_rng(number).integers(0, 256, (20, 16)).astype(np.uint8)
    mask = np.zeros((20, 16), np.uint8)
    mask[2 : 8 + number % 5, 3:9], mask[12:15, 3:9], mask[16:19, 4:8] = 1, 2, 3
    return picture, mask


def volume_files(folder: Path, stem: str, array: Pixels, suffix: str) -> dict[str, bytes]:
    """The files of a volume, by name: a .mhd has its .raw beside it."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.3, 0.3, 1.0)[: image.GetDimension()])
    sitk.WriteImage(image, str(folder / f"{stem}{suffix}"))
    return {path.name: path.read_bytes() for path in folder.glob(f"{stem}.*")}


def camus_nifti(folder: Path) -> dict[str, bytes]:
    files = {
        "database_split/subgroup_training.txt": b"patient0001\npatient0003\n",
        "database_split/subgroup_validation.txt": b"patient0002\r\n",
        "database_split/subgroup_testing.txt": b"\n",
    }
    for patient in ("patient0001", "patient0002"):
        parts = dict[str, bytes]()
        for number, phase in enumerate(("ED", "ES")):
            picture, mask = heart(number)
            parts |= volume_files(folder, f"{patient}_2CH_{phase}", picture, ".nii.gz")
            parts |= volume_files(folder, f"{patient}_2CH_{phase}_gt", mask, ".nii.gz")
        pictures, masks = zip(*map(heart, range(4)), strict=True)
        parts |= volume_files(folder, f"{patient}_4CH_half_sequence", np.stack(pictures), ".nii.gz")
        parts |= volume_files(folder, f"{patient}_4CH_half_sequence_gt", np.stack(masks), ".nii.gz")
        parts["Info_2CH.cfg"] = b"ED: 1\nES: 18\nNbFrame: 18\nSex: F\n"
        files |= {f"database_nifti/{patient}/{name}": data for name, data in parts.items()}
    return files


def camus_mhd(folder: Path) -> dict[str, bytes]:
    files = dict[str, bytes]()
    for group, suffixes in {"training": ("", "_gt"), "testing": ("",)}.items():
        for suffix in suffixes:
            picture = heart(0)[suffix == "_gt"]
            for name, data in volume_files(folder, f"patient0001_4CH_ED{suffix}", picture[None], ".mhd").items():
                files[f"{group}/patient0001/{name}"] = data
    for name, data in volume_files(folder, "patient0001_4CH_sequence", np.stack([heart(0)[0]] * 3), ".mhd").items():
        files[f"training/patient0001/{name}"] = data
    return files


@pytest.mark.parametrize("where", WHERE)
def test_camus_nifti(tmp_path: Path, where: str) -> None:
    found = listed(camus_nifti(tmp_path), "camus", tmp_path, where)
    expected = []
    for patient, split in (("patient0001", "train"), ("patient0002", "val")):
        for picture, frames in (("2CH_ED", ""), ("2CH_ES", ""), ("4CH_half_sequence", " frame=each")):
            stem = f"database_nifti/{patient}/{patient}_{picture}"
            expected.append(
                Item(
                    path=f"{stem}.nii.gz",
                    name=f"{stem}.nii.gz",
                    organ="heart",
                    label=picture.replace("_", " "),
                    mask_path=f"{stem}_gt.nii.gz",
                    mask_kind=f"index volume{frames}: {CLASSES}",
                    group=patient,
                    source="camus",
                    licence="CC BY-NC-SA 4.0",
                    device="GE Vivid E95",
                    official_split=split,
                )
            )
    assert relative(found) == expected
    assert (found.rejected, found.ignored) == ([], 0)
    for item in found.items[:3]:
        frames, masks, names = read_item(item)
        assert [frame.index for frame in frames] == list(masks)
        assert names == NAMES
        for frame in frames:
            picture, mask = heart(frame.index if len(frames) > 1 else int(item.label == "2CH ES"))
            assert np.array_equal(frame.pixels, picture)
            assert np.array_equal(masks[frame.index], mask)
            assert frame.spacing_mm == pytest.approx(0.3)
        assert len(frames) == (4 if "sequence" in item.label else 1)


@pytest.mark.parametrize("where", WHERE)
def test_camus_mhd(tmp_path: Path, where: str) -> None:
    found = listed(camus_mhd(tmp_path), "camus", tmp_path, where)
    facts = [(i.name, i.label, i.group, i.official_split, bool(i.mask_path)) for i in found.items]
    assert facts == [
        ("testing/patient0001/patient0001_4CH_ED.mhd", "4CH ED", "testing/patient0001", "test", False),
        ("training/patient0001/patient0001_4CH_ED.mhd", "4CH ED", "training/patient0001", "train", True),
        (
            "training/patient0001/patient0001_4CH_sequence.mhd",
            "4CH sequence",
            "training/patient0001",
            "train",
            False,
        ),
    ]
    picture, mask = heart(0)
    for item in found.items:
        frames, masks, names = read_item(item)
        assert all(np.array_equal(frame.pixels, picture) for frame in frames)
        assert len(frames) == (3 if "sequence" in item.name else 1)
        if item.mask_path:
            assert np.array_equal(masks[0], mask)
            assert names == NAMES


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"heart/a.png": b""},
            "no database_nifti or training or testing there; expected\ndatabase_nifti/patient0001",
        ),
        ({"training/benign/a.png": b"", "x/b.png": b""}, "holds no patient0001/patient0001_2CH_ED"),
        ({"database_nifti/patient0001/Info_2CH.cfg": b""}, "holds no patient0001/patient0001_2CH_ED"),
    ],
)
def test_what_is_not_camus_says_so(tmp_path: Path, files: dict[str, bytes], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        CAMUS.check(locate(lay_out(files, "folder", tmp_path)))


def tracing(video: str, frame: int, right: int) -> str:
    """A rectangle from x = 10 to `right`, y = 8 to 40: the long axis, then three chords."""
    rows = [(20, 8, 20, 40), (10, 8, right, 8), (10, 24, right, 24), (10, 40, right, 40)]
    return "".join(f"{video},{x1}.0,{y1},{x2}.0,{y2},{frame}\n" for x1, y1, x2, y2 in rows)


ECHONET_FILES = {
    "EchoNet-Dynamic/FileList.csv": b"FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
    b"0X1A,78.5,14.88,69.21,112,112,50,12,TRAIN\n0X2B,24.2,150,200.1,112,112,50,12,TEST\n"
    b"0X3C,60,20,50,112,112,50,12,VAL\n",
    "EchoNet-Dynamic/VolumeTracings.csv": (
        "FileName,X1,Y1,X2,Y2,Frame\n"
        + tracing("0X1A.avi", 7, 50)
        + tracing("0X1A.avi", 2, 40)
        + tracing("0X2B.avi", 10, 30)
    ).encode(),
    "EchoNet-Dynamic/Videos/0X1A.avi": clip(12),
    "EchoNet-Dynamic/Videos/0X2B.avi": clip(11),
    "EchoNet-Dynamic/Videos/0X4D.avi": clip(3),
    "EchoNet-Dynamic/Videos/notes.txt": b"text",
}


@pytest.mark.parametrize("where", WHERE)
def test_echonet(tmp_path: Path, where: str) -> None:
    found = listed(ECHONET_FILES, "echonet", tmp_path, where)
    folder = "EchoNet-Dynamic/Videos"

    def entry(video: str, label: str, split: str, frame: int | None = None) -> Item:
        traced = frame is not None
        return Item(
            path=f"{folder}/{video}.avi",
            name=f"{folder}/{video}{f'+{frame}' if traced else ''}.avi",
            organ="heart",
            label=label,
            mask_path="EchoNet-Dynamic/VolumeTracings.csv" if traced else "",
            mask_kind=f"polygons echonet-csv file={video}.avi frame={frame}: left ventricle" if traced else "",
            group=video,
            source="echonet",
            licence=ECHONET.licence,
            frame=frame,
            official_split=split,
        )

    first, second = "EF=78.5;ESV=14.88;EDV=69.21", "EF=24.2;ESV=150;EDV=200.1"
    assert relative(found) == [
        entry("0X1A", first, "train", 2),  # before the clip: of equal frames the first is kept
        entry("0X1A", first, "train", 7),
        entry("0X1A", first, "train"),
        entry("0X2B", second, "test", 10),
        entry("0X2B", second, "test"),
        entry("0X4D", "", ""),
    ]
    assert found.rejected == [
        Rejected(f"{folder}/0X3C.avi", "echonet", "file", "FileList.csv names this video, but Videos/ lacks it")
    ]
    items = by_name(found)
    for frame, right in ((2, 40), (7, 50)):
        (picture,), masks, names = read_item(items[f"{folder}/0X1A+{frame}.avi"])
        assert picture.index == frame
        assert abs(int(picture.pixels.mean()) - (10 + 4 * frame)) <= 1
        oracle = np.zeros(picture.pixels.shape, np.uint8)
        oracle[8:40, 10:right] = 1
        assert np.array_equal(masks[frame], oracle)
        assert names == {1: "left ventricle"}
    frames, masks, _ = read_item(items[f"{folder}/0X1A.avi"], max_frames=3)
    assert [frame.index for frame in frames] == [0, 6, 11]
    assert masks == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"EchoNet-Dynamic/FileList.csv": b"FileName,EF\n"},
            "lacks the columns ESV, EDV, Split; it has FileName, EF",
        ),
        ({"EchoNet-Dynamic/VolumeTracings.csv": None}, "no VolumeTracings.csv there; expected\nVideos/"),
        ({"EchoNet-Dynamic/FileList.csv": None}, "no FileList.csv there"),
    ],
)
def test_what_is_not_echonet_says_so(tmp_path: Path, change: dict[str, bytes | None], reason: str) -> None:
    files = {name: data for name, data in (ECHONET_FILES | change).items() if data is not None}
    root = locate(lay_out({name.partition("/")[2]: data for name, data in files.items()}, "folder", tmp_path))
    with pytest.raises(DataError, match=reason):
        ECHONET.check(root)


def test_echonet_pediatric_is_another_set(tmp_path: Path) -> None:
    files = ECHONET_FILES | {"EchoNet-Dynamic/VolumeTracings.csv": b"FileName,X,Y,Frame\n0X1A.avi,1,2,3\n"}
    with pytest.raises(DataError, match="VolumeTracings.csv: the polygons' table lacks the columns X1, Y1, X2, Y2"):
        listed(files, "echonet", tmp_path)
