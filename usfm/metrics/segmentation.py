"""Scores of one mask against another, with the rules for empty ones.

Contours are the pixels of a region that touch its outside (MONAI); distances are between their centres. A class
that is absent from both masks: Dice and IoU 1, distances 0. A class that is in one alone: Dice and IoU 0,
distances NaN, and it is counted as `missed`, since no distance says how wrong it is. Sensitivity is NaN where there
is nothing to find, specificity where there is nothing else.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["MaskScores", "dice", "mask_scores", "mean_over_classes", "overlap", "region_overlap"]

Bools = npt.NDArray[np.bool_]
NAN = float("nan")
PERCENTILE = 95.0


@dataclass(frozen=True)
class MaskScores:
    """Scores of one class on one image.

    Attributes:
        dice: in [0, 1].
        iou: in [0, 1].
        sensitivity: share of the true pixels that were found.
        specificity: share of the other pixels that were left alone.
        hd95_px: 95th percentile of the distances from each contour to the other, the larger of both directions, px.
        assd_px: mean of the distances from both contours to the other one, px.
        hd95_mm: in mm; NaN where the size of a pixel is not known.
        assd_mm: in mm.
        missed: 1 where the class is in one mask alone, else 0.
    """

    dice: float
    iou: float
    sensitivity: float
    specificity: float
    hd95_px: float
    assd_px: float
    hd95_mm: float
    assd_mm: float
    missed: float


def region_overlap(predicted: Bools, truth: Bools) -> tuple[float, float]:
    """Dice and intersection over union of two regions (H, W)."""
    total, both = int(predicted.sum()) + int(truth.sum()), int((predicted & truth).sum())
    return (2 * both / total, both / (total - both)) if total else (1.0, 1.0)


def dice(predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer], classes: int) -> float:
    """Dice of one image, averaged over foreground classes, in [0, 1].

    Args:
        predicted: (H, W) class numbers.
        truth: (H, W) class numbers.
        classes: number of classes, background included.

    Returns:
        2 |A n B| / (|A| + |B|). A class that is absent from both scores 1, one that is in one alone scores 0.
    """
    return overlap(predicted, truth, classes)[0]


def overlap(
    predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer], classes: int
) -> tuple[float, float]:
    """Dice and intersection over union of one image, each averaged over foreground classes; see `dice`."""
    scores, unions = [], []
    for number in range(1, classes):
        score, union = region_overlap(predicted == number, truth == number)
        scores.append(score)
        unions.append(union)
    return float(np.mean(scores)), float(np.mean(unions))


def mask_scores(
    predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer], classes: int, spacing_mm: float
) -> list[MaskScores]:
    """Scores of every foreground class of one image.

    Args:
        predicted: (H, W) class numbers.
        truth: (H, W) class numbers.
        classes: number of classes, background included.
        spacing_mm: mm per pixel, NaN where not known.

    Returns:
        One entry for each of the classes 1, 2, ...
    """
    return [_scores(predicted == k, truth == k, spacing_mm) for k in range(1, classes)]


def mean_over_classes(scores: Sequence[MaskScores]) -> dict[str, float]:
    """Mean of every score over classes; those that are not defined are left out, NaN where none is."""
    rows: Mapping[str, list[float]] = {
        name: [getattr(s, name) for s in scores] for name in MaskScores.__annotations__
    }
    return {name: _mean_of_known(values) for name, values in rows.items()}


def _scores(predicted: Bools, truth: Bools, spacing_mm: float) -> MaskScores:
    dice, iou = region_overlap(predicted, truth)
    outside = ~truth
    sensitivity = float(predicted[truth].mean()) if truth.any() else NAN
    specificity = float((~predicted[outside]).mean()) if outside.any() else NAN
    missed = bool(predicted.any()) != bool(truth.any())
    if missed:
        hd95 = assd = NAN
    elif not truth.any():
        hd95 = assd = 0.0
    else:
        hd95, assd = _distances(predicted, truth)
    # a distance of 0 is 0 mm only where a pixel has a size
    return MaskScores(
        dice, iou, sensitivity, specificity, hd95, assd, hd95 * spacing_mm, assd * spacing_mm, float(missed)
    )


def _distances(predicted: Bools, truth: Bools) -> tuple[float, float]:
    """HD95 and ASSD in px of two regions that are not empty."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance  # seconds to import

    a, b = (torch.from_numpy(region[None, None].astype(np.float32)) for region in (predicted, truth))
    with warnings.catch_warnings():
        # MONAI 1.6 calls a deprecated option of its own
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=PERCENTILE)
        assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True)
    return float(hd95), float(assd)


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else NAN
