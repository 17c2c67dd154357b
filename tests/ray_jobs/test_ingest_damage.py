"""Damaged archives: every bad file is refused with its reason, and the rest comes out as if it were not there."""

import csv
import hashlib
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ray_jobs.console import Console
from ray_jobs.ingest import IngestConfig, run
from usfm.config import load_config
from usfm.data.assemble import read_quarantine
from usfm.data.shard_reader import ShardReader
from usfm.data.simulate import write_archive

pytestmark = pytest.mark.ray
COUNTS = {"fetal_head": 40, "heart": 50, "lung": 30, "carotid": 6, "liver": 14}
DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda data, draw: data[: draw.randrange(1, len(data))],
    "zeroed": lambda data, draw: bytes(len(data)),
    "flipped": lambda data, draw: flipped(data, draw.randrange(len(data))),
    "text": lambda data, draw: b"<html><body>404 not found</body></html>",
    "emptied": lambda data, draw: b"",
}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def config(source: Path, output: Path, *more: str) -> IngestConfig:
    values = ["prepare.longest_side_px=64", "prepare.frames.max_frames=2", "duplicates.near=false", *more]
    return load_config(IngestConfig, None, [f"input={source}", f"output={output}", *values])


def digests(root: Path) -> dict[str, str]:
    own = ("config.yaml", "ingest.json", "quarantine.csv")
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name not in own)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_five_percent_damaged_files(ray_cluster: None, tmp_path: Path) -> None:
    manifest = write_archive(tmp_path / "archive", COUNTS, packaged=False)
    with manifest.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    draw = random.Random(3)
    bad = dict(zip((line["path"] for line in draw.sample(lines, 10)), list(DAMAGES) * 2, strict=True))
    assert 0.05 <= len(bad) / len(lines) < 0.08

    clean = tmp_path / "clean"
    shutil.copytree(manifest.parent, clean)
    with (clean / "manifest.csv").open("w", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(lines[0]))
        table.writeheader()
        table.writerows(line for line in lines if line["path"] not in bad)
    for name, damage in bad.items():
        path = manifest.parent / name
        path.write_bytes(DAMAGES[damage](path.read_bytes(), draw))

    result = run(config(manifest, tmp_path / "shards", "items_per_chunk=8"), Console())
    refused = {entry.name: entry for entry in read_quarantine(result.output)}
    assert set(refused) == set(bad)
    assert {entry.kind for entry in refused.values()} == {"file"}
    assert all(entry.reason.startswith("SHA-256 is") for entry in refused.values())  # the manifest states it
    run(config(clean, tmp_path / "expected", "items_per_chunk=8"), Console())
    assert digests(tmp_path / "shards") == digests(tmp_path / "expected")


def bomb() -> bytes:
    """A PNG of a few bytes whose header states 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    picture = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", picture) + chunk(b"IEND", b"")


def test_each_trap_is_refused_with_its_reason(ray_cluster: None, tmp_path: Path) -> None:
    heart = tmp_path / "archive" / "heart"
    heart.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("good.png", "cut.png", "zeroed.png"):
        cv2.imwrite(str(heart / name), rng.integers(0, 255, (80, 90)).astype(np.uint8))
    (heart / "cut.png").write_bytes((heart / "cut.png").read_bytes()[:900])
    (heart / "zeroed.png").write_bytes(bytes(5000))
    (heart / "bomb.png").write_bytes(bomb())
    (heart / "empty.dcm").touch()
    (heart / "notes.jpg").write_text("not an image, although it is called one", encoding="utf-8")
    (heart / "program.png").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200))
    (heart / "loop").symlink_to(heart, target_is_directory=True)
    outside = tmp_path / "secret.png"
    shutil.copy(heart / "good.png", outside)
    (heart / "outside.png").symlink_to(outside)

    result = run(config(tmp_path / "archive", tmp_path / "shards", "source=folder"), Console())
    reader = ShardReader(result.output)
    assert reader.table(reader.index.files)["id"].to_pylist() == ["archive/heart/good.png#0"]
    reasons = {entry.name: entry.reason for entry in read_quarantine(result.output)}
    expected = {
        "heart/bomb.png": "the header states too many pixels",
        "heart/cut.png": "damaged still",
        "heart/empty.dcm": "the file is empty (0 bytes)",
        "heart/loop": "a link to a folder above it: a loop, not followed",
        "heart/notes.jpg": "text, not an image, clip or DICOM file",
        "heart/outside.png": "the path leaves the archive's folder",
        "heart/program.png": "no known image, clip",
        "heart/zeroed.png": "no known image, clip",
    }
    assert set(reasons) == set(expected)
    for name, beginning in expected.items():
        assert reasons[name].startswith(beginning), reasons[name]


def test_neighbouring_frames_are_near_duplicates(ray_cluster: None, tmp_path: Path) -> None:
    """Three pictures, each once more with a little noise and once more brighter: three stay, with their mask."""
    folder = tmp_path / "archive" / "heart"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(3):
        coarse = rng.integers(0, 200, (9, 9)).astype(np.uint8)
        picture = cv2.resize(coarse, (120, 120), interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 5, picture.shape).astype(np.uint8)
        for name, pixels in [("a", picture), ("b", cv2.add(picture, noise)), ("c", cv2.add(picture, 10))]:
            cv2.imwrite(str(folder / f"{number}{name}.png"), pixels)
        cv2.imwrite(str(folder / f"{number}b_mask.png"), np.where(picture > 99, 255, 0).astype(np.uint8))
    result = run(config(tmp_path / "archive", tmp_path / "shards", "duplicates.near=true"), Console())
    reader = ShardReader(result.output)
    ids = reader.table(reader.index.files)["id"].to_pylist()
    assert ids == [f"archive/heart/{number}b.png#0" for number in range(3)]
    entries = read_quarantine(result.output)
    assert [entry.name for entry in entries] == [f"heart/{n}{c}.png#0" for n in range(3) for c in "ac"]
    for entry in entries:
        assert entry.kind == "near_duplicate"
        assert entry.reason.startswith(f"looks like archive/heart/{entry.name[6]}b.png#0, which was kept; hashes")
