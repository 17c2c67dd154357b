"""The pictures of a report: one image per organ, what pre-training sees and answers, contours on unseen images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from usfm.data.shards import ShardFile, ShardIndex, ShardReader
from usfm.data.stream import StreamConfig, decode_grey
from usfm.errors import CheckpointError
from usfm.masking.patches import upsample_mask
from usfm.metrics.scores import dice
from usfm.models.bundle import load_bundle
from usfm.models.objectives import OBJECTIVES, ObjectiveOutput
from usfm.predict.predictor import whole_image
from usfm.predict.render import png_base64
from usfm.rng import generator, stream_key
from usfm.train.checkpoint import latest_checkpoint, load_weights
from usfm.train.pretrain import PretrainConfig
from usfm.train.rundir import read_config

__all__ = [
    "Contours",
    "Panel",
    "Thumbnail",
    "contact_sheet",
    "contours",
    "draw_contours",
    "heat",
    "png_uri",
    "reconstruction_panels",
    "run_config",
    "worst_median_best",
]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
HELD_OUT = ("val", "test")
TRUTH_RGB, PREDICTED_RGB = (86, 180, 233), (230, 159, 0)
DRAWN_PX = 320  # contours are drawn on an image of at least this longest side, so that a line is thin


def png_uri(pixels: npt.NDArray[Any]) -> str:
    """(H, W) or (H, W, 3) uint8, or float in [0, 1], as a data URI."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    return "data:image/png;base64," + png_base64(pixels)


def run_config(run_dir: Path) -> PretrainConfig:
    """The config of a pre-training run; keys that only say where it ran (workers, cluster) are left out.

    Raises:
        ConfigError: the folder holds no run, or not one of pre-training.
    """
    values = read_config(run_dir)
    return PretrainConfig.build({key: values[key] for key in PretrainConfig.model_fields if key in values})


@dataclass(frozen=True)
class Thumbnail:
    """A stored image of one organ, (H, W) uint8."""

    organ: str
    source: str
    licence: str
    pixels: Bytes


def contact_sheet(shards: Path, seed: int = 0) -> list[Thumbnail]:
    """One stored image per organ, drawn by `seed`, organs in name order."""
    reader, sheet = ShardReader(shards), []
    for organ, files in _by_organ(reader.index.files).items():
        file, row = _draw(files, seed, "contact sheet", organ)
        values = reader.take(file.path, np.array([row]), ["image", "source", "licence"]).to_pylist()[0]
        sheet.append(Thumbnail(organ, values["source"], values["licence"], decode_grey(values["image"])))
    return sheet


@dataclass(frozen=True)
class Panel:
    """One image on its way through the dual mask and the network; all images (S, S) float32 grey, about [0, 1].

    Attributes:
        organ: organ name.
        split: where the image comes from.
        seen: True = an image of the training split.
        row_id: id of its row.
        index: sample index that decided the masks.
        original: what the losses compare with.
        stopped: after the band-stop.
        masked: after band-stop and patch mask: what the encoder sees.
        reconstruction: the network's answer.
        composite: the original where it is visible, the reconstruction where it is hidden.
        hidden: (S, S) bool, True = hidden.
        bands: numbers of the removed bands, the innermost is 0.
        spectrum: log magnitude of the original's centred spectrum, in [0, 1].
        spectrum_stopped: the same of `stopped`, on the same scale.
        error: mean |reconstruction - original| over hidden pixels.
        error_fill: mean |masked - original| over hidden pixels: what no reconstruction at all would give.
    """

    organ: str
    split: str
    seen: bool
    row_id: str
    index: int
    original: Floats
    stopped: Floats
    masked: Floats
    reconstruction: Floats
    composite: Floats
    hidden: npt.NDArray[np.bool_]
    bands: tuple[int, ...]
    spectrum: Floats
    spectrum_stopped: Floats
    error: float
    error_fill: float


def reconstruction_panels(run_dir: Path, organs: int = 8, seed: int = 0, shards: Path | None = None) -> list[Panel]:
    """Run the newest checkpoint of a pre-training run on one image of each of some organs.

    Images come from the validation split, else from the test split, else from training (`Panel.seen`). Organs
    that have held-out images go first, then those with more rows.

    Args:
        run_dir: folder of the run.
        organs: at most so many.
        seed: of the choice of images and masks.
        shards: folder of the shards; None = where the run's config says.

    Raises:
        CheckpointError: the run has no whole checkpoint.
        ShardError: the shards are missing.
    """
    config, folder = run_config(run_dir), latest_checkpoint(run_dir)
    if folder is None:
        raise CheckpointError(f"{run_dir} holds no whole checkpoint; start the run again to finish it")
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed).eval()
    load_weights(objective, folder)
    reader, sampling = ShardReader(shards or config.data.shards), config.data.sampling
    trained = reader.index.select(config.data.split, sampling.organs, sampling.exclude_organs)
    of_organ = {organ: _first_split(reader.index, organ, config.data.split) for organ in trained}
    seen = {organ: files[0].split == config.data.split for organ, files in of_organ.items()}
    rows_of = {organ: sum(file.rows for file in files) for organ, files in trained.items()}
    chosen = sorted(sorted(of_organ, key=lambda organ: (seen[organ], -rows_of[organ]))[:organs])
    drawn = [_draw(of_organ[organ], seed, "panels", organ) for organ in chosen]
    rows = [reader.take(f.path, np.array([row]), ["id", "image", "split"]).to_pylist()[0] for f, row in drawn]
    squares = [whole_image(decode_grey(r["image"]), config.encoder.img_px, config.data.canvas_px) for r in rows]
    index = torch.tensor([stream_key(seed, "panel mask", organ) for organ in chosen], dtype=torch.int64)
    with torch.inference_mode():
        images = torch.stack(squares)
        out: ObjectiveOutput = objective(images, index)
        hidden = upsample_mask(out.corrupted.tokens, config.encoder.patch_px)
    return [
        _panel(organ, row["split"], seen[organ], row["id"], int(index[n]), images[n, 0], hidden[n], out, n)
        for n, (organ, row) in enumerate(zip(chosen, rows, strict=True))
    ]


def _panel(
    organ: str, split: str, seen: bool, row_id: str, index: int, image: torch.Tensor, hidden: torch.Tensor,
    out: ObjectiveOutput, n: int,
) -> Panel:  # fmt: skip
    stopped, masked = out.corrupted.stopped[n, 0], out.corrupted.images[n, 0]
    answer = out.reconstruction[n, 0]
    before, after = (torch.fft.fftshift(torch.fft.fft2(x)).abs().log1p() for x in (image, stopped))
    peak, somewhere = before.max().clamp(min=1e-6), bool(hidden.any())
    return Panel(
        organ, split, seen, row_id, index,
        image.numpy(), stopped.numpy(), masked.numpy(), answer.numpy(),
        torch.where(hidden, answer, image).numpy(), hidden.numpy(),
        tuple(out.corrupted.bands[n].nonzero()[:, 0].tolist()),
        (before / peak).numpy(), (after / peak).clamp(max=1).numpy(),
        float((answer - image).abs()[hidden].mean()) if somewhere else 0.0,
        float((masked - image).abs()[hidden].mean()) if somewhere else 0.0,
    )  # fmt: skip


def heat(values: Floats) -> Bytes:
    """(H, W) float in [0, 1] in colours from black to yellow, (H, W, 3) uint8."""
    coloured: Bytes = matplotlib.colormaps["inferno"](values, bytes=True)[..., :3]
    return coloured


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

    Items whose id is not in the test split of the shards are left out.

    Raises:
        CheckpointError: there is no whole bundle.
        ShardError: the shards are missing.
    """
    model, spec = load_bundle(bundle)
    chosen = worst_median_best(items)
    rows = _test_rows(ShardReader(shards), {item["id"] for _, item in chosen})
    drawn = []
    for rank, item in chosen:
        row = rows.get(item["id"])
        if row is None or row["mask"] is None:
            continue
        pixels = decode_grey(row["image"])
        truth = _task_mask(decode_grey(row["mask"]), json.loads(row["mask_classes"]), spec.classes)
        predicted = _predict(model, pixels, spec.encoder.img_px, canvas_px)
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
    logits = model(whole_image(pixels, img_px, canvas_px)[None]).float()
    full = F.interpolate(logits, pixels.shape, mode="bilinear", align_corners=False)
    return np.asarray(full.argmax(dim=1)[0], np.uint8)


def _task_mask(stored: Bytes, names: Mapping[str, str], classes: Sequence[str]) -> Bytes:
    """Stored class numbers to the bundle's, by name; a bundle with one foreground class may join them all."""
    table = np.zeros(256, np.uint8)
    for number, name in names.items():
        if name in classes:
            table[int(number)] = classes.index(name)
    if len(classes) == 2 and not table.any():
        table[1:] = 1
    return table[stored]


def _test_rows(reader: ShardReader, wanted: set[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for file in reader.index.files:
        if file.split == "test":
            for n, row_id in enumerate(reader.batch(file.path).column("id").to_pylist()):
                if row_id in wanted:
                    columns = ["image", "mask", "mask_classes"]
                    found[row_id] = reader.take(file.path, np.array([n]), columns).to_pylist()[0]
    return found


def _by_organ(files: Sequence[ShardFile]) -> dict[str, list[ShardFile]]:
    grouped: dict[str, list[ShardFile]] = {}
    for file in sorted(files, key=lambda f: (f.organ, f.path)):
        if file.rows:
            grouped.setdefault(file.organ, []).append(file)
    return grouped


def _first_split(index: ShardIndex, organ: str, trained: str) -> list[ShardFile]:
    """Shards of the first split that holds rows of the organ: held-out ones before the trained one."""
    for split in (*(s for s in HELD_OUT if s != trained), trained):
        if files := [f for f in index.files if f.split == split and f.organ == organ and f.rows]:
            return files
    return []


def _draw(files: Sequence[ShardFile], seed: int, *purpose: str) -> tuple[ShardFile, int]:
    """One row of some shards, all rows equally likely."""
    row = int(generator(seed, *purpose).integers(sum(file.rows for file in files)))
    for file in files:
        if row < file.rows:
            return file, row
        row -= file.rows
    raise AssertionError("a row number lies within the sum of rows")
