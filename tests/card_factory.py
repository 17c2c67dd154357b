"""Rows with everything that a data card counts: sources, devices, licences, flags, clips. For tests alone."""

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from usfm.data.cleaning.hashes import perceptual_hash, thumbnail
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import write_index, write_shard

FINGERPRINT = "made for the card"


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(H, W) uint8, smooth and unlike those of other seeds."""
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def card_row(name: str, pixels: np.ndarray | None = None, **values) -> dict:
    """One row; `values` replace columns."""
    pixels = picture(sum(name.encode())) if pixels is None else pixels
    height, width = pixels.shape
    row = {
        "id": f"{values.get('source', 'a')}/{name}", "organ": "heart", "source": "a", "device": "", "group": "",
        "split": "train", "label": "", "image": cv2.imencode(".png", pixels)[1].tobytes(), "height": height,
        "width": width, "mask": None, "mask_classes": "", "pair": None, "spacing_mm": None,
        "source_height": 2 * height, "source_width": 2 * width, "crop": [0, 0, 2 * height, 2 * width], "text_px": 0,
        "flags": "", "phash": perceptual_hash(pixels), "thumbnail": thumbnail(pixels), "frame": 0,
        "licence": "CC BY 4.0", "origin": "a journal", "source_sha256": f"{sum(name.encode()):064x}",
    }  # fmt: skip
    return row | values


def card_rows() -> list[dict]:
    """24 rows of two organs and three sources."""
    rows = []
    for n in range(16):
        flags = "text" if n < 4 else "burned_in_stated" if n == 4 else "doppler text" if n == 5 else ""
        rows.append(
            card_row(
                f"clip{n // 4}.mp4#{n}", picture(n // 4), source="b" if n >= 12 else "a", group=f"a/p{n // 8}",
                split="val" if n >= 12 else "train", label=f"HC_mm={n}.5", spacing_mm=0.25 if n % 2 else None,
                frame=n, text_px=300 if n < 4 else 0, flags=flags, device="Maker Model" if n >= 12 else "",
                crop=[8, 0, 48, 128] if n < 8 else [0, 0, 96, 128],
                licence="CC BY-NC-SA 4.0" if n >= 12 else "CC BY 4.0", source_sha256=f"{n // 4:064x}",
                mask=b"x" if n == 0 else None, mask_classes=json.dumps({"1": "lv"}) if n == 0 else "",
            )
        )  # fmt: skip
    for n in range(8):
        label = "benign" if n < 3 else ""
        rows.append(
            card_row(
                f"liver_{n}.png#0", picture(100 + n, 40, 40), organ="liver", source="c", split="test", label=label,
                licence="not stated", origin="", source_sha256=f"{100 + n:064x}", pair=b"y" if n == 7 else None,
            )
        )  # fmt: skip
    return rows


def write_card_shards(root, rows: Iterable[dict], fingerprint: str = FINGERPRINT) -> Path:
    """Shards by split, organ and source, with their index; returns `root`."""
    grouped: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows:
        grouped.setdefault((row["split"], row["organ"], row["source"]), []).append(row)
    files = [
        write_shard(root, f"{split}/{organ}/{source}-00000.arrow", split, organ,
                    pa.Table.from_pylist(of_shard, ROW_SCHEMA), source)
        for (split, organ, source), of_shard in sorted(grouped.items())
    ]  # fmt: skip
    write_index(root, fingerprint, files)
    return root
