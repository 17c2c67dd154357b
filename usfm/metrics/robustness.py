"""How much a score loses when images get worse: every corruption of `usfm.data.degrade` at three severities."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn

from usfm.data.degrade import CORRUPTIONS, Corruption, corrupt
from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.metrics.evaluation import Evaluation, evaluate
from usfm.metrics.intervals import weighted_difference, weighted_score
from usfm.metrics.item_scores import HIGHER_IS_BETTER, selecting_score
from usfm.models.windows import WindowConfig

__all__ = ["robustness"]

DRAWS = 1000


def robustness(
    model: nn.Module,
    data: LabelledSet,
    task: TaskConfig,
    img_px: int,
    device: torch.device,
    seed: int = 0,
    corruptions: Sequence[Corruption] = CORRUPTIONS,
    advance: Callable[[], None] | None = None,
    windows: WindowConfig | None = None,
) -> list[dict[str, Any]]:
    """The selecting score on corrupted copies of a set, each image corrupted as its number and `seed` say.

    Args:
        model: as of `evaluate`.
        data: as of `evaluate`.
        task: as of `evaluate`.
        img_px: as of `evaluate`.
        device: as of `evaluate`.
        seed: of the corruptions and of the bootstrap; the same for models that are to be compared.
        corruptions: which.
        advance: called after each row (progress).
        windows: how images are shown; None = whole. With sliding windows each window is corrupted by itself.

    Returns:
        A row for the clean set (corruption "none", severity 0), then one per corruption and severity:
        `corruption, severity, metric, value, low, high` and `drop, drop_low, drop_high`: how much worse than the
        clean set, paired by patient; above 0 = worse, also for errors. Intervals are 95 % over patients.
    """
    shown = (windows or WindowConfig()).model_dump()
    clean = evaluate(model, data, task, img_px, device, full=False, seed=seed, **shown)
    rows = [_row(clean, clean, "none", 0, seed)]
    for kind in corruptions:
        for severity in (1, 2, 3):
            inputs = partial(_corrupted, kind=kind, severity=severity, seed=seed)
            worse = evaluate(model, data, task, img_px, device, inputs=inputs, full=False, seed=seed, **shown)
            rows.append(_row(clean, worse, kind, severity, seed))
            if advance is not None:
                advance()
    return rows


def _corrupted(
    images: torch.Tensor, numbers: torch.Tensor, kind: Corruption, severity: int, seed: int
) -> torch.Tensor:
    return corrupt(images, kind, severity, numbers, seed)


def _row(clean: Evaluation, worse: Evaluation, kind: str, severity: int, seed: int) -> dict[str, Any]:
    groups = [item["group"] for item in clean.per_item]
    before, after = (selecting_score(clean.metric, e.per_item, clean.classes) for e in (clean, worse))
    better, worst = (before, after) if HIGHER_IS_BETTER[clean.metric] else (after, before)
    drop = weighted_difference([better], [worst], [groups], DRAWS, seed)
    return {
        "corruption": kind, "severity": severity, "metric": clean.metric,
        **asdict(weighted_score(after, groups, DRAWS, seed)),
        "drop": drop.value, "drop_low": drop.low, "drop_high": drop.high,
    }  # fmt: skip
