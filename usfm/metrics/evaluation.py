"""Score a task model on a labelled set: one number that selects, all the others, and every item behind them."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError
from usfm.metrics.answers import SEED, Asking, Inputs, as_they_are
from usfm.metrics.classification import confusion
from usfm.metrics.intervals import Score, WeightedScore, weighted_score, weighted_scores
from usfm.metrics.item_scores import HIGHER_IS_BETTER, METRIC, item_scores, selecting_score
from usfm.models.windows import WindowConfig, WindowMode

__all__ = ["HIGHER_IS_BETTER", "METRIC", "Evaluation", "Inputs", "batch_for", "evaluate"]

BATCH = 64  # images at once, up to a side of `BATCH_PX`
BATCH_PX = 224
DRAWS = 1000


@dataclass(frozen=True)
class Evaluation:
    """Result on one set.

    Attributes:
        metric: name of the selecting score, see `METRIC`; `HIGHER_IS_BETTER` says its direction.
        value: that score.
        classes: names in the order of logits.
        per_item: one row per item, see `usfm.metrics.items`.
        scores: all scores by name with 95 % intervals over patients; only the selecting one, without an interval,
            unless the evaluation was full.
        confusion: counts (K, K), rows = truth, of a classification; else empty.
    """

    metric: str
    value: float
    classes: list[str]
    per_item: list[dict[str, Any]]
    scores: dict[str, Score] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not defined (NaN) is None."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    def per_patient(self) -> list[dict[str, Any]]:
        """A row per patient: `group, items, organ, source` (of the first item) and the mean of every number."""
        rows = []
        for group, items in _grouped(self.per_item, "group").items():
            row = {"group": group, "items": len(items), "organ": items[0]["organ"], "source": items[0]["source"]}
            for name, example in items[0].items():
                if isinstance(example, int | float):
                    known = [item[name] for item in items if not math.isnan(item[name])]
                    row[name] = float(np.mean(known)) if known else math.nan
            rows.append(row)
        return rows

    def per_organ(self) -> list[dict[str, Any]]:
        """A row per organ: `organ, items, groups, metric, value, low, high` (interval over its patients)."""
        return self._by("organ")

    def per_source(self) -> list[dict[str, Any]]:
        """The same for every source."""
        return self._by("source")

    def _by(self, name: str) -> list[dict[str, Any]]:
        rows = []
        for key, items in _grouped(self.per_item, name).items():
            groups = [item["group"] for item in items]
            score = weighted_score(selecting_score(self.metric, items, self.classes), groups, DRAWS, seed=0)
            rows.append({name: key, "items": len(items), "groups": len(set(groups)), "metric": self.metric,
                         **asdict(score)})  # fmt: skip
        return rows


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: LabelledSet,
    task: TaskConfig,
    img_px: int,
    device: torch.device,
    *,
    inputs: Inputs | None = None,
    full: bool = True,
    mode: WindowMode = "whole",
    overlap: float = WindowConfig().overlap,
    seed: int = SEED,
) -> Evaluation:
    """Score a model.

    Segmentation is compared at the stored size of each image, not at the network's. Enhancement is compared at the
    network's size where whole images are shown to it, and at the stored size with sliding windows; its synthetic
    inputs are drawn from (seed, number of the item), so they are the same for every model.

    Args:
        model: images (B, 1, P, P) in [0, 1] to the outputs of the kind.
        data: what to score it on.
        task: the kind and the classes.
        img_px: P.
        device: of the model.
        inputs: changes what the network sees (robustness); None = nothing.
        full: all scores with intervals; False = the selecting one alone, which is much faster.
        mode: of dense tasks, see `usfm.models.windows`.
        overlap: of sliding windows, see there.
        seed: of the synthetic inputs and of the bootstrap.

    Raises:
        NonFiniteAnswer: the network answers an item with NaN or infinity.
        DataError: the set cannot tell models apart by the selecting score (AUROC without both answers in a class).
    """
    model.eval()
    asking = Asking(model, data, task, img_px, device, inputs or as_they_are, full, mode, overlap, seed)
    items: list[dict[str, Any]] = []
    batch = batch_for(img_px)
    for start in range(0, len(data), batch):
        numbers = range(start, min(start + batch, len(data)))
        items += asking.rows(numbers)
    metric, names = METRIC[task.kind], task.class_names
    select = selecting_score(metric, items, names)
    value = float(select(np.ones((1, len(items))))[0])
    if math.isnan(value):
        raise DataError(
            f"task {task.name}: {metric} is not defined on {len(data)} items: no class has items with and without "
            "it; give the split more patients, or drop the class"
        )
    groups = [item["group"] for item in items]
    asked: dict[str, WeightedScore] = item_scores(task.kind, items, names) if full else {metric: select}
    scores = weighted_scores(asked, groups, DRAWS if full else 0, seed)
    counts = []
    if task.kind == "classification":
        predicted, truth = (np.array([names.index(item[key]) for item in items]) for key in ("predicted", "truth"))
        counts = confusion(predicted, truth, len(names))
    return Evaluation(metric, value, names, items, scores, counts)


def batch_for(img_px: int) -> int:
    """Images at once: so many that a larger side takes no more memory."""
    return max(1, int(BATCH * min(1.0, (BATCH_PX / img_px) ** 2)))


def _grouped(items: Sequence[dict[str, Any]], name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        found.setdefault(item[name], []).append(item)
    return found


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
