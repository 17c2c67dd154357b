"""Score a task model on a labelled set: one number, and every item behind it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from usfm.data.augment import whole_images
from usfm.data.tasks import LabelledSet, TaskConfig
from usfm.metrics.scores import balanced_accuracy, confusion, dice

__all__ = ["HIGHER_IS_BETTER", "METRIC", "Evaluation", "evaluate"]

METRIC = {"classification": "balanced_accuracy", "segmentation": "dice"}
HIGHER_IS_BETTER = {"balanced_accuracy": True, "dice": True}
BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Result on one set.

    Attributes:
        metric: name of the score.
        value: the score, in [0, 1].
        classes: names in the order of logits.
        per_item: id and Dice, or id, truth, predicted and probability of the predicted class.
        confusion: counts (K, K), rows = truth; empty for segmentation.
    """

    metric: str
    value: float
    classes: list[str]
    per_item: list[dict[str, Any]]
    confusion: list[list[int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@torch.inference_mode()
def evaluate(
    model: nn.Module, data: LabelledSet, task: TaskConfig, img_px: int, device: torch.device
) -> Evaluation:
    """Score a model; segmentation is compared at the stored size of each image, not at the network's."""
    model.eval()
    names = task.class_names
    items: list[dict[str, Any]] = []
    predicted = np.zeros(len(data), np.int64)
    for start in range(0, len(data), BATCH):
        rows = slice(start, min(start + BATCH, len(data)))
        canvases = torch.from_numpy(data.image[rows]).to(device)
        height, width = torch.from_numpy(data.height[rows]), torch.from_numpy(data.width[rows])
        logits = model(whole_images(canvases, height, width, img_px)).float()
        for n, row in enumerate(range(rows.start, rows.stop)):
            if task.kind == "segmentation":
                high, wide = int(data.height[row]), int(data.width[row])
                full = F.interpolate(logits[n : n + 1], (high, wide), mode="bilinear", align_corners=False)
                drawn = full.argmax(dim=1)[0].cpu().numpy()
                items.append({"id": data.ids[row], "value": dice(drawn, data.mask[row, :high, :wide], len(names))})
            else:
                probability, best = logits[n].softmax(dim=0).max(dim=0)
                predicted[row] = int(best)
                truth = names[int(data.label[row])]
                items.append({"id": data.ids[row], "truth": truth, "predicted": names[int(best)],
                              "probability": float(probability)})  # fmt: skip
    if task.kind == "segmentation":
        value = float(np.mean([item["value"] for item in items]))
        return Evaluation(METRIC[task.kind], value, names, items)
    value = balanced_accuracy(predicted, data.label)
    return Evaluation(METRIC[task.kind], value, names, items, confusion(predicted, data.label, len(names)))
