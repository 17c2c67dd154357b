import hashlib
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig, Rejected, encode_grey, group_key, prepare, shrink
from usfm.data.schema import ROW_SCHEMA, Item
from usfm.data.sources.table import find_items
from usfm.data.split import SplitConfig, split_of

CONFIG, SPLIT = PrepareConfig(), SplitConfig()
NOISE = np.random.default_rng(0).integers(0, 256, (300, 512), np.uint8)


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def item(tmp_path: Path, pixels: npt.NDArray[np.uint8] = NOISE, **more: object) -> Item:
    plain = Item(
        save(tmp_path / "a.png", pixels), "x/a.png", "heart", "2CH ED", source="s", licence="MIT", origin="o"
    )
    return replace(plain, **more)


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(data)))


def test_row_of_a_still(tmp_path: Path) -> None:
    (row,), rejected = prepare(item(tmp_path, group="p1", spacing_mm=0.1), CONFIG, SPLIT)
    assert rejected == []
    assert list(row) == ROW_SCHEMA.names
    assert pa.Table.from_pylist([row], ROW_SCHEMA).to_pylist() == [row]
    assert (row["id"], row["group"], row["split"]) == ("s/x/a.png#0", "s/p1", split_of("s/p1", SPLIT))
    assert (row["height"], row["width"], row["source_height"], row["source_width"]) == (150, 256, 300, 512)
    assert row["spacing_mm"] == pytest.approx(0.2)
    assert row["source_sha256"] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert np.array_equal(decode(row["image"]), shrink(NOISE, 256))
    assert (row["mask"], row["mask_classes"]) == (None, "")


def test_shrink_is_the_mean_over_areas_and_never_enlarges() -> None:
    oracle = NOISE.reshape(150, 2, 256, 2).mean(axis=(1, 3))
    assert np.abs(shrink(NOISE, 256) - oracle).max() <= 0.51
    assert shrink(NOISE, 512) is NOISE
    assert shrink(NOISE, 1000) is NOISE
    assert shrink(np.zeros((1000, 2), np.uint8), 100).shape == (100, 1)


def test_encodings() -> None:
    small = shrink(NOISE, 64)
    assert np.array_equal(decode(encode_grey(small, "png")), small)
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    assert np.abs(decode(encode_grey(smooth, "jpeg", 95)).astype(int) - smooth).max() <= 6
    assert Image.open(BytesIO(encode_grey(smooth, "jpeg"))).format == "JPEG"


def test_mask_is_fitted_to_the_stored_image(tmp_path: Path) -> None:
    mask = np.zeros((300, 512), np.uint8)
    mask[100:200, 100:300] = 255
    masked = item(tmp_path, mask_path=save(tmp_path / "m.png", mask), mask_kind="binary png lumen")
    (row,), rejected = prepare(masked, CONFIG, SPLIT)
    assert rejected == []
    stored = np.zeros((150, 256), np.uint8)
    stored[50:100, 50:150] = 1
    assert np.array_equal(decode(row["mask"]), stored)
    assert json.loads(row["mask_classes"]) == {"1": "lumen"}


@pytest.mark.parametrize(
    ("mask", "kind", "reason"),
    [
        (np.zeros((300, 300), np.uint8), "binary", "the mask has 300 x 300 pixels, its image 512 x 300"),
        (np.zeros((300, 512), np.uint8), "strange", "unknown mask_kind 'strange'"),
        (None, "binary", "the file is missing"),
    ],
)
def test_bad_mask_costs_the_mask_not_the_image(
    tmp_path: Path, mask: npt.NDArray[np.uint8] | None, kind: str, reason: str
) -> None:
    path = str(tmp_path / "m.png") if mask is None else save(tmp_path / "m.png", mask)
    (row,), (entry,) = prepare(item(tmp_path, mask_path=path, mask_kind=kind), CONFIG, SPLIT)
    assert (row["mask"], row["mask_classes"]) == (None, "")
    assert (entry.name, entry.source, entry.kind) == ("x/a.png", "s", "mask")
    assert entry.reason.startswith(reason)


def test_refusals(tmp_path: Path) -> None:
    assert prepare(item(tmp_path, sha256="00" * 32), CONFIG, SPLIT)[1][0].reason.startswith("SHA-256 is ")
    gone = prepare(item(tmp_path, path=str(tmp_path / "gone.png")), CONFIG, SPLIT)
    assert gone == ([], [Rejected("x/a.png", "s", "file", "the file is missing")])
    rows, (entry,) = prepare(item(tmp_path, np.full((20, 20), 9, np.uint8)), CONFIG, SPLIT)
    assert rows == []
    assert (entry.name, entry.kind) == ("x/a.png#0", "frame")
    assert entry.reason == "blank frame: grey levels have a standard deviation of 0.00, below 2"


@pytest.mark.parametrize("group", ["", "unknown", "Unknown (volunteers, no ids)"])
def test_unknown_group_is_empty_and_trains(tmp_path: Path, group: str) -> None:
    (row,), _ = prepare(item(tmp_path, group=group), CONFIG, SplitConfig(val=0.01, test=0.98))
    assert (row["group"], row["split"]) == ("", "train")


def test_patient_identifiers_are_hashed_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = item(tmp_path)
    monkeypatch.delenv(GROUP_KEY_VARIABLE, raising=False)
    first, again, other = (group_key(plain, patient) for patient in ("DOE^JANE 17", "DOE^JANE 17", "18"))
    assert first == again != other
    assert first.startswith("s/patient-")
    assert "DOE" not in first
    monkeypatch.setenv(GROUP_KEY_VARIABLE, "a secret of the hospital")
    assert group_key(plain, "DOE^JANE 17") != first
    assert group_key(replace(plain, group="p1"), "DOE^JANE 17") == "s/p1"


def test_clip_rows_keep_their_frame_numbers_and_one_split(tiny_archive: Path) -> None:
    found = find_items(tiny_archive)
    clips = [entry for entry in found.items if entry.name.endswith((".avi", ".mp4", ".mpeg"))]
    assert {Path(entry.name).suffix for entry in clips} == {".avi", ".mp4", ".mpeg"}
    for entry in clips:
        rows, rejected = prepare(entry, PrepareConfig(max_frames=4), SPLIT)
        assert rejected == []
        assert [row["frame"] for row in rows] == [0, 3, 6, 9]
        assert [row["id"].rpartition("#")[2] for row in rows] == ["0", "3", "6", "9"]
        assert len({(row["split"], row["group"], row["source_sha256"]) for row in rows}) == 1


def test_nothing_of_a_dicom_header_reaches_a_row(tiny_archive: Path) -> None:
    found = find_items(tiny_archive)
    simulated = [entry for entry in found.items if entry.name.startswith("liver/")]
    rows = [row for entry in simulated for row in prepare(entry, CONFIG, SPLIT)[0]]
    assert len({row["group"] for row in rows}) == 2  # two patients
    for row in rows:
        assert row["group"].startswith("simulator/patient-")
        assert row["spacing_mm"] is not None
        stored = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in row.values())
        assert b"liver-p0" not in stored
        assert b"Nobody" not in stored


def test_a_mask_on_a_clip_is_refused(tiny_archive: Path) -> None:
    found = find_items(tiny_archive)
    clip = next(entry for entry in found.items if entry.name.endswith(".avi"))
    rows, (entry,) = prepare(replace(clip, mask_path=clip.path, mask_kind="binary"), CONFIG, SPLIT)
    assert all(row["mask"] is None for row in rows)
    assert entry.reason == "one mask for a clip of 8 frames; give masks for single images"
