"""Robustness as a heat map: the score on test images made worse, and how much of it is lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from usfm.data.degrade import CORRUPTIONS, SEVERITIES
from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.metrics.robustness import robustness
from usfm.models.windows import WindowConfig

__all__ = ["PASSES", "Cell", "Grid", "grid_of", "robust_grid"]

PASSES = sum(len(SEVERITIES[kind]) for kind in CORRUPTIONS)
Advance = Callable[[], None]

FULL_SHARE = 1 / 3  # of the clean score: a loss of this much has the strongest colour


@dataclass(frozen=True)
class Cell:
    """One corruption at one severity: the score with its interval, the paired loss, and its colour in [0, 1]."""

    value: float
    low: float
    high: float
    drop: float
    share: float


@dataclass(frozen=True)
class Grid:
    """Of one model: the score on clean images, cells by corruption and rising severity, the rows behind them.

    `images` and `patients` are how many each cell rests on.
    """

    metric: str
    clean: float
    cells: dict[str, list[Cell]]
    rows: list[dict[str, Any]]
    images: int
    patients: int


def robust_grid(
    model: nn.Module,
    data: LabelledSet,
    task: TaskConfig,
    windows: WindowConfig,
    advance: Advance = lambda: None,
) -> Grid:
    """Score a model on a set made worse in every way and severity (`usfm.metrics.robustness`).

    Args:
        model: of the bundle.
        data: what to score it on.
        task: of the set.
        windows: how the bundle is shown images.
        advance: called after each of the `PASSES`.
    """
    device = next(model.parameters()).device
    img_px: int = model.img_px  # type: ignore[assignment]
    rows = robustness(model, data, task, img_px, device, advance=advance, windows=windows)
    return grid_of(rows, len(data), len(set(data.groups)))


def grid_of(rows: Sequence[Mapping[str, Any]], images: int, patients: int) -> Grid:
    """Arrange the rows of `robustness`: the clean one first, then by corruption and rising severity.

    Args:
        rows: as it gives them.
        images: of the set.
        patients: of the set.
    """
    clean, *worse = rows
    cells: dict[str, list[Cell]] = {}
    for row in worse:
        share = min(max(row["drop"] / (FULL_SHARE * abs(clean["value"])), 0.0), 1.0) if clean["value"] else 0.0
        cell = Cell(row["value"], row["low"], row["high"], row["drop"], share)
        cells.setdefault(row["corruption"], []).append(cell)
    return Grid(clean["metric"], clean["value"], cells, [dict(row) for row in rows], images, patients)
