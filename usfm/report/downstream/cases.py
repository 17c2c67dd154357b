"""Test images that say how a head fails: chosen by score, shown with truth and answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.metrics.answers import Asking
from usfm.metrics.item_scores import HIGHER_IS_BETTER, Items
from usfm.models.windows import WindowConfig, predict_canvas
from usfm.report.overlays import draw_contours
from usfm.report.pictures import png_uri

__all__ = ["Drawn", "draw_cases", "worst"]


@dataclass(frozen=True)
class Drawn:
    """One test image.

    Attributes:
        row_id: id of the row.
        value: score of the answer on this image.
        lines: truth and answer in words; none where the score says it all.
        pictures: (name, data URI).
    """

    row_id: str
    value: float
    lines: list[str]
    pictures: list[tuple[str, str]]


def worst(items: Items, count: int, metric: str) -> Items:
    """The items of the worst score, one per patient, the worst first.

    Wrong answers of a classifier have one score; those given with the highest probability come first. Of right ones
    it is those given with the lowest.
    """
    sign = 1 if HIGHER_IS_BETTER[metric] else -1
    ordered = sorted(items, key=lambda of: (sign * of["value"], _sure(of), str(of["id"])))
    taken: dict[str, Mapping[str, Any]] = {}
    for item in ordered:
        taken.setdefault(item["group"], item)
    return list(taken.values())[:count]


def _sure(item: Mapping[str, Any]) -> float:
    """How well a classifier's probability fits: of a right answer as it is, of a wrong one negative; else 0."""
    probability = float(item.get("probability", 0.0))
    return probability if item["value"] else -probability


@torch.inference_mode()
def draw_cases(
    model: nn.Module, data: LabelledSet, task: TaskConfig, items: Items, windows: WindowConfig
) -> list[Drawn]:
    """Pictures of some items; those that are not in the set are left out.

    Args:
        model: gave the items' answers; it is asked again where the answer is an image.
        data: the set that was scored.
        task: of the set.
        items: rows of the evaluation, see `usfm.metrics.items`.
        windows: how the evaluation showed images to the model.
    """
    place = {row_id: n for n, row_id in enumerate(data.ids)}
    drawn = []
    for item in items:
        if (number := place.get(item["id"])) is not None:
            pictures = [
                (name, png_uri(pixels)) for name, pixels in _pictures(model, data, task, number, windows).items()
            ]
            drawn.append(Drawn(item["id"], float(item["value"]), _lines(task, item), pictures))
    return drawn


def _pictures(
    model: nn.Module, data: LabelledSet, task: TaskConfig, number: int, windows: WindowConfig
) -> dict[str, npt.NDArray[Any]]:
    high, wide = int(data.height[number]), int(data.width[number])
    pixels, device = data.image[number, :high, :wide], next(model.parameters()).device
    if task.kind == "enhancement":
        return _restored(model, data, task, number, windows)
    if task.kind != "segmentation":
        return {"image": pixels}
    canvas = torch.from_numpy(data.image[number]).to(device)
    logits = predict_canvas(model, canvas, high, wide, windows.mode, windows.overlap)
    predicted = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return {"outlines of truth and answer": draw_contours(pixels, data.mask[number, :high, :wide], predicted)}


def _restored(
    model: nn.Module, data: LabelledSet, task: TaskConfig, number: int, windows: WindowConfig
) -> dict[str, npt.NDArray[Any]]:
    """Input, answer and truth as the evaluation had them, each (H, W) in [0, 1]."""
    img_px: int = model.img_px  # type: ignore[assignment]
    device = next(model.parameters()).device
    asking = Asking(model, data, task, img_px, device, mode=windows.mode, overlap=windows.overlap)
    answer, given, clean = asking.restored([number])[0]
    return {
        name: image[0].cpu().numpy() for name, image in (("input", given), ("answer", answer), ("truth", clean))
    }


def _lines(task: TaskConfig, item: Mapping[str, Any]) -> list[str]:
    truth, answer = item.get("truth"), item.get("predicted")
    if task.kind == "classification":
        return [f"truth: {truth}", f"answer: {answer} ({item['probability']:.2f})"]
    if task.kind == "multilabel":
        return [f"truth: {truth or 'none'}", f"answer: {answer or 'none'}"]
    if task.kind == "regression":
        return [f"truth: {truth:.4g} {item['unit']}", f"answer: {answer:.4g} {item['unit']}"]
    return []
