"""Truth and prediction of a segmentation head, as outlines on its worst, median and best test images."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from usfm.data.codec import decode_grey
from usfm.data.shard_reader import ShardReader
from usfm.data.stream import StreamConfig
from usfm.metrics.segmentation import dice
from usfm.models.bundle import load_bundle
from usfm.predict.predictor import label_map, whole_image

__all__ = ["PREDICTED_RGB", "TRUTH_RGB", "Contours", "contours", "draw_contours", "worst_median_best"]

Bytes = npt.NDArray[np.uint8]
TRUTH_RGB, PREDICTED_RGB = (86, 180, 233), (230, 159, 0)
DRAWN_PX = 320  # contours are drawn on an image of at least this longest side, so that a line is thin


@dataclass(frozen=True)
class Contours:
    """Truth and prediction on one test image.

    Attributes:
        row_id: id of the row.
        rank: "worst", "median" or "best".
        value: Dice that the evaluation wrote down.
        redrawn: Dice of the contours drawn here, at the stored size of the image.
        picture: (H, W, 3) uint8.
    """

    row_id: str
    rank: str
    value: float
    redrawn: float
    picture: Bytes


def worst_median_best(items: Sequence[Mapping[str, Any]], each: int = 2) -> list[tuple[str, Mapping[str, Any]]]:
    """`each` worst, median and best items by value, every item at most once, in this order."""
    ordered = sorted(items, key=lambda item: (item["value"], item["id"]))
    n, middle = len(ordered), max(0, (len(ordered) - each) // 2)
    places = {"worst": range(each), "best": range(n - each, n), "median": range(middle, middle + each)}
    taken: dict[int, str] = {}
    for rank, wanted in places.items():
        for place in wanted:
            if 0 <= place < n:
                taken.setdefault(place, rank)
    return [(taken[place], ordered[place]) for place in sorted(taken)]


def contours(
    bundle: Path, shards: Path, items: Sequence[Mapping[str, Any]], canvas_px: int = StreamConfig().canvas_px
) -> list[Contours]:
    """Run a segmentation bundle again on its worst, median and best test images and draw the outlines.

    Items whose id is not in the shards are left out. They may be of any split: a task in folds, or one that tests
    on other sources, tests rows of all of them.

    Raises:
        CheckpointError: there is no whole bundle.
        ShardError: the shards are missing.
    """
    model, spec = load_bundle(bundle)
    chosen = worst_median_best(items)
    organs = {item.get("organ") for _, item in chosen}  # None: older evaluations do not say
    rows = _rows(ShardReader(shards), {item["id"] for _, item in chosen}, None if None in organs else organs)
    drawn = []
    for rank, item in chosen:
        row = rows.get(item["id"])
        if row is None or row["mask"] is None:
            continue
        pixels = decode_grey(row["image"])
        truth = _task_mask(decode_grey(row["mask"]), json.loads(row["mask_classes"]), spec.classes)
        predicted = _predict(model, pixels, spec.img_px, canvas_px)
        redrawn = dice(predicted, truth, len(spec.classes))
        picture = draw_contours(pixels, truth, predicted)
        drawn.append(Contours(item["id"], rank, float(item["value"]), redrawn, picture))
    return drawn


def draw_contours(pixels: Bytes, truth: Bytes, predicted: Bytes) -> Bytes:
    """Outlines of every class over a grey image, (H', W', 3) uint8; all inputs (H, W), H' >= H."""
    scale = max(1, -(-DRAWN_PX // max(pixels.shape)))
    size = (pixels.shape[1] * scale, pixels.shape[0] * scale)
    picture = cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2RGB)
    for mask, colour in ((truth, TRUTH_RGB), (predicted, PREDICTED_RGB)):
        large = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        for number in range(1, int(mask.max()) + 1):
            lines, _ = cv2.findContours((large == number).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(picture, lines, -1, colour, 2, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


@torch.inference_mode()
def _predict(model: nn.Module, pixels: Bytes, img_px: int, canvas_px: int) -> Bytes:
    logits = model(whole_image(pixels, img_px, canvas_px)[None]).float()[0]
    return label_map(logits, pixels.shape)[0]


def _task_mask(stored: Bytes, names: Mapping[str, str], classes: Sequence[str]) -> Bytes:
    """Stored class numbers to the bundle's, by name; a bundle with one foreground class may join them all."""
    table = np.zeros(256, np.uint8)
    for number, name in names.items():
        if name in classes:
            table[int(number)] = classes.index(name)
    if len(classes) == 2 and not table.any():
        table[1:] = 1
    return table[stored]


def _rows(
    reader: ShardReader, wanted: set[str], organs: Collection[str | None] | None
) -> dict[str, dict[str, Any]]:
    """Rows by id, from the shards of some organs; None = of all."""
    found: dict[str, dict[str, Any]] = {}
    for file in reader.index.files if organs is None else [f for f in reader.index.files if f.organ in organs]:
        if len(found) == len(wanted):
            break
        for n, row_id in enumerate(reader.batch(file.path).column("id").to_pylist()):
            if row_id in wanted:
                columns = ["image", "mask", "mask_classes"]
                found[row_id] = reader.take(file.path, np.array([n]), columns).to_pylist()[0]
    return found
