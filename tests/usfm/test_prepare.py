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
from screen_factory import screen

from usfm.data.cleaning.clean import cut
from usfm.data.cleaning.config import CleanConfig
from usfm.data.cleaning.hashes import perceptual_hash, thumbnail
from usfm.data.codec import encode_grey
from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig, Rejected, group_key, prepare, shrink
from usfm.data.readers.frames import Box, FrameSelection
from usfm.data.schema import ROW_SCHEMA, Item
from usfm.data.sources.table import find_items

CONFIG = PrepareConfig()
RAW = PrepareConfig(clean=CleanConfig(crop=False, text="off"))  # noise has neither picture nor text
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
    (row,), rejected = prepare(item(tmp_path, group="p1", spacing_mm=0.1), RAW)
    assert rejected == []
    assert list(row) == ROW_SCHEMA.names
    assert pa.Table.from_pylist([row], ROW_SCHEMA).to_pylist() == [row]
    assert (row["id"], row["group"], row["split"]) == ("s/x/a.png#0", "s/p1", "")
    assert (row["height"], row["width"], row["source_height"], row["source_width"]) == (150, 256, 300, 512)
    assert row["spacing_mm"] == pytest.approx(0.2)
    assert row["source_sha256"] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert np.array_equal(decode(row["image"]), shrink(NOISE, 256))
    assert (row["mask"], row["mask_classes"], row["pair"]) == (None, "", None)
    assert (row["crop"], row["text_px"], row["flags"], row["device"]) == ([0, 0, 300, 512], 0, "", "")
    assert row["phash"] == perceptual_hash(shrink(NOISE, 256))
    assert row["thumbnail"] == thumbnail(shrink(NOISE, 256))


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
    (row,), rejected = prepare(masked, RAW)
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
    (row,), (entry,) = prepare(item(tmp_path, mask_path=path, mask_kind=kind), RAW)
    assert (row["mask"], row["mask_classes"]) == (None, "")
    assert (entry.name, entry.source, entry.kind) == ("x/a.png", "s", "mask")
    assert entry.reason.startswith(reason)


def test_refusals(tmp_path: Path) -> None:
    assert prepare(item(tmp_path, sha256="00" * 32), RAW)[1][0].reason.startswith("SHA-256 is ")
    gone = prepare(item(tmp_path, path=str(tmp_path / "gone.png")), RAW)
    assert gone == ([], [Rejected("x/a.png", "s", "file", "the file is missing")])
    rows, (entry,) = prepare(item(tmp_path, np.full((20, 20), 9, np.uint8)), RAW)
    assert rows == []
    assert (entry.name, entry.kind) == ("x/a.png#0", "frame")
    assert entry.reason == "blank frame: grey levels have a standard deviation of 0.00, below 2"


@pytest.mark.parametrize("group", ["", "unknown", "Unknown (volunteers, no ids)"])
def test_unknown_group_is_empty(tmp_path: Path, group: str) -> None:
    (row,), _ = prepare(item(tmp_path, group=group), RAW)
    assert row["group"] == ""


def test_patient_identifiers_are_hashed_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = item(tmp_path)
    monkeypatch.delenv(GROUP_KEY_VARIABLE, raising=False)
    first, again, other = (group_key(plain, patient) for patient in ("DOE^JANE 17", "DOE^JANE 17", "18"))
    assert first == again != other
    assert first.startswith("s/patient-")
    assert "DOE" not in first
    monkeypatch.setenv(GROUP_KEY_VARIABLE, "a secret of the hospital")
    assert group_key(plain, "DOE^JANE 17") != first
    stated = replace(plain, group="MRN 0017")
    hashed = group_key(stated, "DOE^JANE 17")
    assert hashed == group_key(stated, "") != group_key(replace(plain, group="MRN 0018"), "")
    assert hashed.startswith("s/group-")
    assert "0017" not in hashed
    assert group_key(replace(plain, group="unknown"), "") == ""
    monkeypatch.delenv(GROUP_KEY_VARIABLE)
    assert group_key(stated, "DOE^JANE 17") == "s/MRN 0017"


def test_clip_rows_keep_their_frame_numbers_and_one_split(tiny_archive: Path) -> None:
    found = find_items(tiny_archive)
    clips = [entry for entry in found.items if entry.name.endswith((".avi", ".mp4", ".mpeg"))]
    assert {Path(entry.name).suffix for entry in clips} == {".avi", ".mp4", ".mpeg"}
    for entry in clips:
        rows, rejected = prepare(entry, PrepareConfig(frames=FrameSelection(max_frames=4)))
        assert rejected == []
        assert [row["frame"] for row in rows] == [0, 3, 6, 9]
        assert [row["id"].rpartition("#")[2] for row in rows] == ["0", "3", "6", "9"]
        assert len({(row["split"], row["group"], row["source_sha256"]) for row in rows}) == 1


def test_nothing_of_a_dicom_header_reaches_a_row(tiny_archive: Path) -> None:
    found = find_items(tiny_archive)
    simulated = [entry for entry in found.items if entry.name.startswith("liver/")]
    rows = [row for entry in simulated for row in prepare(entry, CONFIG)[0]]
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
    rows, (entry,) = prepare(replace(clip, mask_path=clip.path, mask_kind="binary"), RAW)
    assert all(row["mask"] is None for row in rows)
    assert entry.reason == "one mask for a clip of 8 frames; give masks for single images"


def test_image_mask_and_pair_are_cropped_alike(tmp_path: Path) -> None:
    shown = screen("kidney", 1)
    inside = shown.picture
    mask = np.zeros(shown.pixels.shape, np.uint8)
    mask[inside.top + 100 : inside.top + 200, inside.left + 120 : inside.left + 260] = 255
    better = np.maximum(shown.pixels, 60)
    pair = save(tmp_path / "better.png", better)
    labelled = item(
        tmp_path, shown.pixels, mask_path=save(tmp_path / "m.png", mask), mask_kind="binary", pair_path=pair
    )
    config = PrepareConfig(longest_side_px=4096, clean=CleanConfig(text="off"))
    (row,), rejected = prepare(labelled, config)
    assert rejected == []
    box = Box(*row["crop"])
    assert box.height * box.width < 0.6 * shown.pixels.size
    assert np.array_equal(decode(row["image"]), cut(shown.pixels, box))
    assert np.array_equal(decode(row["mask"]), cut(mask, box) // 255)
    assert np.array_equal(decode(row["pair"]), cut(better, box))
    assert (row["height"], row["width"]) == (box.height, box.width)
    assert (row["source_height"], row["source_width"]) == shown.pixels.shape
    (small,), _ = prepare(replace(labelled, spacing_mm=0.2), PrepareConfig())
    assert max(small["height"], small["width"]) == 256
    assert decode(small["mask"]).shape == decode(small["pair"]).shape == (small["height"], small["width"])
    assert small["spacing_mm"] == pytest.approx(0.2 * max(box.height, box.width) / 256)


def test_the_crop_holds_the_label_even_where_there_is_no_picture(tmp_path: Path) -> None:
    shown = screen("heart", 0)
    mask = np.zeros(shown.pixels.shape, np.uint8)
    mask[5, 790] = 255
    path = save(tmp_path / "m.png", mask)
    (row,), _ = prepare(item(tmp_path, shown.pixels, mask_path=path, mask_kind="binary"), CONFIG)
    top, left, height, width = row["crop"]
    assert top <= 5
    assert left + width >= 791
    assert decode(row["mask"]).shape == (row["height"], row["width"])


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((300, 300), np.uint8), "the high-quality image has 300 x 300 pixels, its image 512 x 300"),
        (np.zeros((600, 1024), np.uint8), "the high-quality image has 1024 x 600 pixels, its image 512 x 300"),
        (None, "the file is missing"),
    ],
)
def test_a_bad_pair_costs_the_pair_not_the_image(
    tmp_path: Path, pixels: npt.NDArray[np.uint8] | None, reason: str
) -> None:
    path = str(tmp_path / "p.png") if pixels is None else save(tmp_path / "p.png", pixels)
    (row,), (entry,) = prepare(item(tmp_path, pair_path=path), RAW)
    assert row["pair"] is None
    assert (entry.name, entry.source, entry.kind) == ("x/a.png", "s", "pair")
    assert entry.reason.startswith(reason)


def test_painted_text_is_counted_and_flagged(tmp_path: Path) -> None:
    shown = screen("liver", 2)
    burned = shown.pixels.copy()
    middle = shown.picture.top + 230, shown.picture.left + 130
    for number in range(7):
        burned[middle[0] : middle[0] + 12, middle[1] + 12 * number : middle[1] + 12 * number + 2] = 255
        burned[middle[0] + 10 : middle[0] + 12, middle[1] + 12 * number : middle[1] + 12 * number + 7] = 255
    (row,), _ = prepare(item(tmp_path, burned), PrepareConfig(longest_side_px=4096))
    (noted,), _ = prepare(item(tmp_path, burned), PrepareConfig(clean=CleanConfig(text="flag")))
    assert "text" in row["flags"].split()
    assert "text" in noted["flags"].split()
    assert (np.asarray(decode(row["image"])) != cut(burned, Box(*row["crop"]))).sum() <= row["text_px"]
    assert 7 * 30 <= row["text_px"] <= 7 * 200
    assert noted["text_px"] == 0


def test_one_frame_of_a_clip_has_its_mask(tiny_archive: Path, tmp_path: Path) -> None:
    clip = next(entry for entry in find_items(tiny_archive).items if entry.name.endswith(".avi"))
    (plain,), _ = prepare(replace(clip, frame=4), CONFIG)
    mask = np.zeros((plain["source_height"], plain["source_width"]), np.uint8)
    mask[100:120, 100:140] = 255
    labelled = replace(clip, frame=4, mask_path=save(tmp_path / "m.png", mask), mask_kind="binary png lesion")
    (row,), rejected = prepare(labelled, CONFIG)
    assert rejected == []
    assert row["frame"] == 4
    assert json.loads(row["mask_classes"]) == {"1": "lesion"}
    assert decode(row["mask"]).sum() == pytest.approx(800, rel=0.1)


def test_frozen_frames_are_refused_by_name(tmp_path: Path) -> None:
    other = Image.fromarray(screen("heart", 1).pixels)
    still = Image.fromarray(screen("heart", 0).pixels)
    still.save(tmp_path / "a.tif", save_all=True, append_images=[still, other])
    rows, (entry,) = prepare(replace(item(tmp_path), path=str(tmp_path / "a.tif")), CONFIG)
    assert [row["frame"] for row in rows] == [0, 2]
    assert (entry.name, entry.kind) == ("x/a.png#1", "frame")
    assert entry.reason.startswith("frozen: the same picture as frame 0")
