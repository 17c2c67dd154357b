"""Scores of classifiers, most as functions of weighted items, so that one draw of patients serves every score.

Those functions take what the items say and give a `WeightedScore`: (D, n) weights to (D,) scores. They are
scikit-learn's `recall_score`, `f1_score`, `roc_auc_score` and `average_precision_score`, which take one set of
weights at a time, far too slow for a bootstrap (tests compare them, weighted too).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from usfm.metrics.intervals import Floats, Ints, WeightedScore

__all__ = [
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "balanced_accuracy_of",
    "binary_f1",
    "binary_recall",
    "binary_specificity",
    "calibration_error",
    "confusion",
    "macro",
    "macro_f1_of",
    "reliability",
]

Bools = npt.NDArray[np.bool_]
BINS = 15  # of the expected calibration error, as Guo et al. (2017)


def balanced_accuracy(predicted: Ints, truth: Ints) -> float:
    """Mean recall over the classes that occur in `truth` (scikit-learn), in [0, 1]."""
    # a class that is predicted without occurring costs the others recall; it has none of its own
    from sklearn.metrics import recall_score  # a second and more that a training process need not wait for

    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0))


def confusion(predicted: Ints, truth: Ints, classes: int) -> list[list[int]]:
    """Counts (K, K): rows are the truth, columns the prediction."""
    from sklearn.metrics import confusion_matrix

    counts: list[list[int]] = confusion_matrix(truth, predicted, labels=list(range(classes))).tolist()
    return counts


def accuracy(predicted: Ints, truth: Ints) -> WeightedScore:
    """Share of right items; both (n,) class numbers."""
    right = (predicted == truth).astype(float)
    return lambda weights: _ratio(weights @ right, weights.sum(axis=-1))


def balanced_accuracy_of(predicted: Ints, truth: Ints, classes: int) -> WeightedScore:
    """Mean recall over the classes that occur in the drawn truth."""
    return macro([binary_recall(predicted == k, truth == k) for k in range(classes)])


def macro_f1_of(predicted: Ints, truth: Ints, classes: int) -> WeightedScore:
    """Mean F1 over the classes that occur in the drawn truth."""
    return macro([binary_f1(predicted == k, truth == k) for k in range(classes)])


def binary_recall(predicted: Bools, truth: Bools) -> WeightedScore:
    """Sensitivity of one class; NaN where the class does not occur."""
    hit, occurs = (predicted & truth).astype(float), truth.astype(float)
    return lambda weights: _ratio(weights @ hit, weights @ occurs)


def binary_specificity(predicted: Bools, truth: Bools) -> WeightedScore:
    """Specificity of one class; NaN where nothing else occurs."""
    return binary_recall(~predicted, ~truth)


def binary_f1(predicted: Bools, truth: Bools) -> WeightedScore:
    """F1 of one class: 2 hits / (claimed + occurring); NaN where the class does not occur, whatever is claimed."""
    hit, both, occurs = (predicted & truth).astype(float), predicted.astype(float) + truth, truth.astype(float)

    def of(weights: Floats) -> Floats:
        f1 = _ratio(2 * (weights @ hit), weights @ both)
        return np.where(weights @ occurs > 0, f1, np.nan)

    return of


def auroc(score: Floats, truth: Bools) -> WeightedScore:
    """Area under the ROC curve of one class; equal scores count half. NaN unless the class is there and missing.

    Args:
        score: (n,) larger = more likely of the class.
        truth: (n,).
    """
    order, starts = _steps(score)
    here = truth[order]

    def of(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        positive = np.add.reduceat(sorted_weights * here, starts, axis=1)  # (D, different scores, rising)
        negative = np.add.reduceat(sorted_weights * ~here, starts, axis=1)
        below = negative.cumsum(axis=1) - negative
        ahead = (positive * (below + 0.5 * negative)).sum(axis=1)
        return _ratio(ahead, positive.sum(axis=1) * negative.sum(axis=1))

    return of


def average_precision(score: Floats, truth: Bools) -> WeightedScore:
    """Area under the precision-recall curve of one class as steps (not interpolated); NaN where it does not occur.

    Arguments as of `auroc`.
    """
    order, starts = _steps(-score)
    here = truth[order]

    def of(weights: Floats) -> Floats:
        sorted_weights = weights[:, order]
        positive = np.add.reduceat(sorted_weights * here, starts, axis=1)  # (D, different scores, falling)
        claimed = np.add.reduceat(sorted_weights, starts, axis=1).cumsum(axis=1)
        precision = np.divide(positive.cumsum(axis=1), claimed, out=np.zeros_like(claimed), where=claimed > 0)
        return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1))

    return of


def calibration_error(confidence: Floats, right: Bools, bins: int = BINS) -> WeightedScore:
    """Expected calibration error: |mean confidence - share that is right| of each bin, weighted by its items.

    Args:
        confidence: (n,) in [0, 1].
        right: (n,) whether what was claimed so confidently is true.
        bins: equal widths; a confidence on an edge belongs to the lower bin.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599), Eq. 3.
    """
    inside = _bin_of(confidence, bins)[:, None] == np.arange(bins)  # (n, bins)
    gap = inside * (confidence - right)[:, None]
    return lambda weights: _ratio(np.abs(weights @ gap).sum(axis=-1), weights.sum(axis=-1))


def reliability(confidence: Floats, right: Bools, bins: int = BINS) -> list[dict[str, float]]:
    """The filled bins behind `calibration_error`, for a diagram: `low, high, items, confidence, right` (means)."""
    number, rows = _bin_of(confidence, bins), []
    for k in range(bins):
        here = number == k
        if here.any():
            means = {"confidence": float(confidence[here].mean()), "right": float(right[here].mean())}
            rows.append({"low": k / bins, "high": (k + 1) / bins, "items": int(here.sum()), **means})
    return rows


def macro(scores: Sequence[WeightedScore]) -> WeightedScore:
    """Mean over the classes for which a score is defined; NaN where it is for none."""

    def of(weights: Floats) -> Floats:
        each = np.stack([score(weights) for score in scores])  # (K, D)
        return _ratio(np.nansum(each, axis=0), (~np.isnan(each)).sum(axis=0).astype(float))

    return of


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing below."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _steps(score: Floats) -> tuple[Ints, Ints]:
    """Order of rising scores, and where in it each different score starts."""
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    return order, starts


def _bin_of(confidence: Floats, bins: int) -> Ints:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
