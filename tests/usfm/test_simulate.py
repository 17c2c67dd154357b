import csv
import hashlib
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usfm.data.b_mode import SIDE, Phantom, b_mode, speckle
from usfm.data.cleaning.config import CleanConfig
from usfm.data.phantoms import ORGANS
from usfm.data.prepare import PrepareConfig, prepare
from usfm.data.readers.frames import FrameSelection
from usfm.data.simulate import COUNTS, LABELS, packaged_dicom, write_archive
from usfm.data.sources.table import find_items
from usfm.errors import ConfigError
from usfm.rng import generator


def lines(root: Path) -> list[dict[str, str]]:
    with (root / "manifest.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_equal_arguments_write_equal_bytes(tmp_path: Path, tiny_archive: Path) -> None:
    counts = {"lung": 4, "liver": 2, "heart": 2, "nerve": 1, "carotid": 1, "muscle": 2}
    roots = [
        write_archive(tmp_path / name, counts, seed=seed).parent for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = ({p.relative_to(r).as_posix(): p.read_bytes() for p in r.rglob("*") if p.is_file()} for r in roots)
    assert a == b
    changed = {name for name in a if a[name] != c[name]}
    assert changed >= {line["path"] for line in lines(roots[0]) if line["source"] == "simulator"}
    for line in lines(roots[0]):  # an item does not depend on how many others there are
        assert (tiny_archive / line["path"]).read_bytes() == a[line["path"]]


def test_archive_has_every_medium_and_is_read_without_loss(tiny_archive: Path) -> None:
    entries = lines(tiny_archive)
    suffixes = {Path(line["path"]).suffix for line in entries}
    assert suffixes == {".png", ".jpg", ".bmp", ".gif", ".avi", ".mp4", ".mpeg", ".dcm"}
    for line in entries:
        assert hashlib.sha256((tiny_archive / line["path"]).read_bytes()).hexdigest() == line["sha256"]
    found = find_items(tiny_archive)
    assert found.rejected == []
    for item, line in zip(found.items, sorted(entries, key=lambda line: line["path"]), strict=True):
        rows, rejected = prepare(
            item,
            PrepareConfig(
                frames=FrameSelection(max_frames=1000), clean=CleanConfig(crop=False, text="off", frozen="off")
            ),
        )
        assert rejected == []
        if line["source"] == "simulator":
            assert len(rows) == int(line["frames"])
            assert (rows[0]["height"], rows[0]["width"]) == (SIDE, SIDE)
            assert (rows[0]["mask"] is not None) == bool(line["mask_path"])


def test_labels_and_patients(tiny_archive: Path) -> None:
    own = [line for line in lines(tiny_archive) if line["source"] == "simulator"]
    for organ, labels in LABELS.items():
        counts = Counter(line["label"] for line in own if line["organ"] == organ)
        assert set(counts) == set(labels)
    hearts = [line for line in own if line["organ"] == "heart"]
    assert Counter(line["group"] for line in hearts) == {"heart-p000": 4, "heart-p001": 4}
    assert {line["group"] for line in own if line["media"] == "dicom"} == {""}
    assert {line["licence"] for line in own} == {"CC0-1.0"}


def test_head_circumference_agrees_with_mask_and_spacing(tiny_archive: Path) -> None:
    heads = [line for line in lines(tiny_archive) if line["organ"] == "fetal_head"]
    assert heads
    for line in heads:
        mask = np.asarray(Image.open(tiny_archive / line["mask_path"])) > 127
        y, x = np.nonzero(mask)
        # semi-axes of an even ellipse are twice the standard deviations along its axes
        a, b = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(x, y)))
        around = np.pi * (3 * (a + b) - np.sqrt((3 * a + b) * (a + 3 * b)))  # Ramanujan's first formula
        stated = float(line["label"].removeprefix("HC_mm="))
        assert stated == pytest.approx(around * float(line["spacing_mm"]), rel=0.02)


def test_speckle_is_rayleigh_distributed() -> None:
    envelope = speckle(np.ones((512, 512), np.float32), generator(0, "test"))
    assert envelope.mean() / envelope.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)  # 1.91
    double = speckle(np.full((512, 512), 4, np.float32), generator(0, "test"))
    assert np.allclose(double, 2 * envelope, rtol=1e-5)  # echo strength is power


def test_depth_attenuates_and_a_fan_is_black_outside() -> None:
    even = Phantom(np.ones((SIDE, SIDE), np.float32))
    image = b_mode(even, generator(0, "a"), attenuation=3.0).astype(float)
    assert image[:40].mean() > image[-40:].mean() + 40
    fan = b_mode(Phantom(even.echo, sector=True), generator(0, "a"))
    assert fan[5, 5] == fan[5, -6] == fan[-1, 0] == 0
    assert fan[SIDE // 2, SIDE // 3 : 2 * SIDE // 3].min() > 0


@pytest.mark.parametrize("organ", sorted(ORGANS))
def test_phantoms(organ: str) -> None:
    for number, label in enumerate(LABELS.get(organ, ("",))):
        phantom = ORGANS[organ](generator(number, organ), label, 0.0)
        assert phantom.echo.shape == (SIDE, SIDE)
        assert phantom.echo.dtype == np.float32
        assert np.isfinite(phantom.echo).all()
        assert phantom.echo.min() >= 0
        image = b_mode(phantom, generator(number, organ, "speckle"))
        assert image.dtype == np.uint8
        assert 15 < image.std() < 90
        if phantom.mask is not None:
            assert 0.002 < (phantom.mask > 0).mean() < 0.6


def test_default_counts_are_uneven() -> None:
    assert set(COUNTS) == set(ORGANS)
    assert max(COUNTS.values()) >= 20 * min(COUNTS.values())


def test_scale_and_wrong_organs(tmp_path: Path) -> None:
    write_archive(tmp_path, {"carotid": 12, "kidney": 6, "nerve": 0}, scale=0.1, packaged=False)
    assert Counter(line["organ"] for line in lines(tmp_path)) == {"carotid": 1, "kidney": 1}
    with pytest.raises(ConfigError, match="spleen"):
        write_archive(tmp_path, {"spleen": 1})
    with pytest.raises(ConfigError, match="scale"):
        write_archive(tmp_path, scale=0)


def test_packaged_dicom_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(
        "usfm.data.simulate.PACKAGED", {"examples_jpeg2k.dcm": ("a", "b"), "no_such.dcm": ("a", "b")}
    )
    (line,) = packaged_dicom(tmp_path)
    assert (line["path"], line["source"]) == ("pydicom/examples_jpeg2k.dcm", "pydicom")
    assert (tmp_path / line["path"]).stat().st_size > 10_000
