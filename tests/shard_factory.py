"""Small labelled shards made in memory: heads are bright discs, hearts are bright or dark. For tests alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import write_index, write_shard

ROWS = {"fetal_head": {"train": 24, "val": 6, "test": 6}, "heart": {"train": 40, "val": 8, "test": 8},
        "kidney": {"train": 3, "val": 1, "test": 1}}  # fmt: skip
HEAD = {"name": "head", "kind": "segmentation", "organs": ["fetal_head"], "classes": {"head": ["*"]}}
VIEW = {"name": "view", "kind": "classification", "organs": ["heart"], "classes": {"bright": ["a"], "dark": ["b"]}}


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def row(organ: str, split: str, number: int) -> dict:
    rng = np.random.default_rng([number, len(organ), len(split)])
    height, width = (40, 64) if number % 2 else (64, 48)
    image = rng.integers(20, 90, (height, width)).astype(np.uint8)
    mask, label = None, ""
    if organ == "fetal_head":
        drawn = np.zeros((height, width), np.uint8)
        centre = (int(rng.integers(16, width - 15)), int(rng.integers(14, height - 13)))
        cv2.circle(drawn, centre, 12, 1, -1)
        image = np.where(drawn, image + 120, image).astype(np.uint8)
        mask = png(drawn)
    if organ == "heart":
        label = "a" if number % 2 else "b"
        image = image + np.uint8(100 * (label == "a"))
    name = f"{split}_{number:03d}"
    return {
        "id": f"made/{organ}/{name}.png#0", "organ": organ, "source": "made", "split": split, "label": label,
        "group": f"made/{organ}{split}{number // 2}", "image": png(image), "height": height, "width": width,
        "mask": mask, "mask_classes": json.dumps({"1": "head"}) if mask else "", "pair": None, "spacing_mm": None,
        "device": "", "crop": [0, 0, height, width], "text_px": 0, "flags": "", "phash": number,
        "thumbnail": bytes(256),
        "source_height": height, "source_width": width, "frame": 0, "licence": "CC0-1.0", "origin": "test",
        "source_sha256": f"{number:064d}",
    }  # fmt: skip


def write_rows(root: Path, rows: list[dict]) -> Path:
    """Shards of some rows, one per split and organ; returns the folder."""
    files = []
    for split in sorted({r["split"] for r in rows}):
        for organ in sorted({r["organ"] for r in rows if r["split"] == split}):
            chosen = [r for r in rows if (r["split"], r["organ"]) == (split, organ)]
            table = pa.Table.from_pylist(chosen, ROW_SCHEMA)
            files.append(write_shard(root, f"{split}/{organ}/0.arrow", split, organ, table))
    write_index(root, "made", files)
    return root


def write_small_shards(root: Path) -> Path:
    """Two shards per organ of the training split, one else; returns the folder."""
    files = []
    for organ, splits in ROWS.items():
        for split, count in splits.items():
            rows = [row(organ, split, number) for number in range(count)]
            cut = count // 3 if split == "train" else 0
            for part, chosen in enumerate([rows[:cut], rows[cut:]]):
                if chosen:
                    name = f"{split}/{organ}/{part:05d}.arrow"
                    files.append(write_shard(root, name, split, organ, pa.Table.from_pylist(chosen, ROW_SCHEMA)))
    write_index(root, "made", files)
    return root
