"""Scores of a task from its per-item rows: one function for a set, a draw of patients, an organ, a pair of runs.

`Evaluation.per_item` (or the rows of an `items.parquet`) hold all that a score needs, so it can be computed again
anywhere, weighted anyhow. Which columns a kind has is said in `usfm.metrics.items`.
"""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np

from usfm.kinds import PRESENT_ABOVE, TaskKind
from usfm.metrics import classification, regression
from usfm.metrics.intervals import Floats, Ints, WeightedScore
from usfm.metrics.regression import weighted_mean

__all__ = ["HIGHER_IS_BETTER", "METRIC", "Items", "bounds", "column", "item_scores", "selecting_score"]

Items = Sequence[Mapping[str, Any]]
METRIC: Mapping[TaskKind, str] = {
    "classification": "balanced_accuracy",
    "multilabel": "auroc",
    "segmentation": "dice",
    "regression": "mae",
    "enhancement": "psnr",
}
HIGHER_IS_BETTER: dict[str, bool] = {
    **dict.fromkeys(("balanced_accuracy", "accuracy", "macro_f1", "auroc", "auprc"), True),
    **dict.fromkeys(("dice", "iou", "sensitivity", "specificity", "pearson", "psnr", "ssim", "gcnr"), True),
    **dict.fromkeys(("ece", "hd95_px", "hd95_mm", "assd_px", "assd_mm", "missed", "mae", "rmse"), False),
    **dict.fromkeys(("circumference_mae_mm", "speckle_index"), False),
}
BOUNDS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("balanced_accuracy", "accuracy", "macro_f1", "auroc", "auprc", "ece", "gcnr"), (0.0, 1.0)),
    **dict.fromkeys(("dice", "iou", "sensitivity", "specificity", "missed"), (0.0, 1.0)),
    **dict.fromkeys(("pearson", "ssim"), (-1.0, 1.0)),
    **dict.fromkeys(("hd95_px", "hd95_mm", "assd_px", "assd_mm", "mae", "rmse"), (0.0, inf)),
    **dict.fromkeys(("circumference_mae_mm", "speckle_index"), (0.0, inf)),
}  # fmt: skip
"""Least and most of the scores that have ends, see `bounds`."""
MASK_COLUMNS = ("dice", "iou", "sensitivity", "specificity", "hd95_px", "hd95_mm", "assd_px", "assd_mm", "missed")
IMAGE_COLUMNS = tuple(f"{name}{of}" for of in ("", "_input") for name in ("psnr", "ssim", "speckle_index", "gcnr"))


def selecting_score(metric: str, items: Items, classes: Sequence[str]) -> WeightedScore:
    """The score that selects the best step, see `METRIC`.

    Args:
        metric: one of the values of `METRIC`.
        items: rows of one evaluation.
        classes: names in the order of logits; read for classes alone.
    """
    if metric == "balanced_accuracy":
        predicted, truth = _numbers(items, "predicted", classes), _numbers(items, "truth", classes)
        return classification.balanced_accuracy_of(predicted, truth, len(classes))
    if metric == "auroc":
        return _macro_auroc(items, classes)
    return weighted_mean(column(items, "value"))


def item_scores(kind: TaskKind, items: Items, classes: Sequence[str]) -> dict[str, WeightedScore]:
    """All scores of a kind, by name; those of which no item knows anything (mm without spacing) are left out.

    Classification: one class against the others, averaged over classes (macro), for AUROC and AUPRC. Segmentation:
    means over items; with several classes also `<score>_<class>`. An item whose distance is not defined (see
    `usfm.metrics.segmentation`) is left out of that mean and counted by `missed`.
    """
    if kind == "classification":
        return _of_classes(items, classes)
    if kind == "multilabel":
        return _of_labels(items, classes)
    if kind == "regression":
        return _of_numbers(column(items, "predicted"), column(items, "truth"))
    names = [*MASK_COLUMNS, *(f"{name}_{k}" for k in classes[1:] for name in MASK_COLUMNS)]
    wanted = names if kind == "segmentation" else IMAGE_COLUMNS
    values = {name: column(items, name) for name in wanted if any(name in item for item in items)}
    scores = {name: weighted_mean(of) for name, of in values.items() if not np.isnan(of).all()}
    if any("circumference_mm" in item for item in items):
        error = np.abs(column(items, "circumference_mm") - column(items, "circumference_truth_mm"))
        if not np.isnan(error).all():
            scores["circumference_mae_mm"] = weighted_mean(error)
    return scores


def bounds(name: str) -> tuple[float, float]:
    """Least and most of a score, also of one class (`dice_head`) or of the input (`ssim_input`)."""
    known = [of for of in BOUNDS if name == of or name.startswith(f"{of}_")]
    return BOUNDS[max(known, key=len)] if known else (-inf, inf)


def column(items: Items, name: str) -> Floats:
    """(n,) float64; NaN where a row lacks the value."""
    return np.array([np.nan if item.get(name) is None else item[name] for item in items], np.float64)


def _numbers(items: Items, name: str, classes: Sequence[str]) -> Ints:
    number = {label: k for k, label in enumerate(classes)}
    return np.array([number[item[name]] for item in items], np.int64)


def _of_classes(items: Items, classes: Sequence[str]) -> dict[str, WeightedScore]:
    predicted, truth = _numbers(items, "predicted", classes), _numbers(items, "truth", classes)
    shares = [column(items, f"p_{name}") for name in classes]
    of = classification
    return {
        "balanced_accuracy": of.balanced_accuracy_of(predicted, truth, len(classes)),
        "accuracy": of.accuracy(predicted, truth),
        "macro_f1": of.macro_f1_of(predicted, truth, len(classes)),
        "auroc": of.macro([of.auroc(share, truth == k) for k, share in enumerate(shares)]),
        "auprc": of.macro([of.average_precision(share, truth == k) for k, share in enumerate(shares)]),
        "ece": of.calibration_error(column(items, "probability"), predicted == truth),
    }


def _of_labels(items: Items, classes: Sequence[str]) -> dict[str, WeightedScore]:
    shares = [column(items, f"p_{name}") for name in classes]
    truths = [column(items, f"t_{name}") > 0.5 for name in classes]
    pairs = list(zip(shares, truths, strict=True))
    of = classification
    return {
        "auroc": _macro_auroc(items, classes),
        "auprc": of.macro([of.average_precision(share, truth) for share, truth in pairs]),
        "macro_f1": of.macro([of.binary_f1(share > PRESENT_ABOVE, truth) for share, truth in pairs]),
        "sensitivity": of.macro([of.binary_recall(share > PRESENT_ABOVE, truth) for share, truth in pairs]),
        "specificity": of.macro([of.binary_specificity(share > PRESENT_ABOVE, truth) for share, truth in pairs]),
        # of one label what is claimed with its probability is that it is there
        "ece": of.macro([of.calibration_error(share, truth) for share, truth in pairs]),
    }


def _macro_auroc(items: Items, classes: Sequence[str]) -> WeightedScore:
    each = [(column(items, f"p_{name}"), column(items, f"t_{name}") > 0.5) for name in classes]
    return classification.macro([classification.auroc(share, truth) for share, truth in each])


def _of_numbers(predicted: Floats, truth: Floats) -> dict[str, WeightedScore]:
    of = regression
    return {
        "mae": of.mean_absolute_error(predicted, truth),
        "rmse": of.root_mean_square_error(predicted, truth),
        "pearson": of.pearson(predicted, truth),
        "bias": of.bias(predicted, truth),
        "loa_low": of.limit_of_agreement(predicted, truth, upper=False),
        "loa_high": of.limit_of_agreement(predicted, truth, upper=True),
    }
