"""Scores of predicted numbers as functions of weighted items (`usfm.metrics.intervals.WeightedScore`).

Errors are predicted minus true, in the target's unit.
"""

import numpy as np

from usfm.metrics.intervals import Floats, WeightedScore

__all__ = [
    "bias",
    "limit_of_agreement",
    "mean_absolute_error",
    "pearson",
    "root_mean_square_error",
    "weighted_mean",
]

AGREEMENT = 1.96  # standard deviations on each side of the bias: 95 % of normal errors


def weighted_mean(values: Floats) -> WeightedScore:
    """Mean of (n,) values; items with NaN are left out, NaN where none is left."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)

    def of(weights: Floats) -> Floats:
        total = weights @ known
        return np.divide(weights @ filled, total, out=np.full_like(total, np.nan), where=total > 0)

    return of


def mean_absolute_error(predicted: Floats, truth: Floats) -> WeightedScore:
    """Mean of |error|; both (n,)."""
    return weighted_mean(np.abs(predicted - truth))


def root_mean_square_error(predicted: Floats, truth: Floats) -> WeightedScore:
    """Square root of the mean squared error; both (n,)."""
    squares = weighted_mean(np.square(predicted - truth))

    def of(weights: Floats) -> Floats:
        root: Floats = np.sqrt(squares(weights))
        return root

    return of


def bias(predicted: Floats, truth: Floats) -> WeightedScore:
    """Mean error; both (n,)."""
    return weighted_mean(predicted - truth)


def limit_of_agreement(predicted: Floats, truth: Floats, upper: bool) -> WeightedScore:
    """Bias plus (`upper`) or minus 1.96 standard deviations of the errors (n - 1 in the denominator).

    Source: Bland and Altman, Lancet 1986.
    """
    error = predicted - truth
    sign = AGREEMENT if upper else -AGREEMENT

    def of(weights: Floats) -> Floats:
        total = weights.sum(axis=-1)
        mean = (weights @ error) / total
        spread = (weights @ np.square(error)) / total - np.square(mean)
        sd = np.sqrt(np.maximum(spread, 0) * total / np.maximum(total - 1, 1))
        limit: Floats = mean + sign * sd
        return limit

    return of


def pearson(predicted: Floats, truth: Floats) -> WeightedScore:
    """Correlation of (n,) with (n,), in [-1, 1]; NaN where either does not vary."""
    # centred first: the moments below would lose digits of large numbers
    x, y = predicted - predicted.mean(), truth - truth.mean()
    least = 1e-12 * max(float(x.std() * y.std()), 1e-300)

    def of(weights: Floats) -> Floats:
        total = weights.sum(axis=-1)
        mx, my = (weights @ x) / total, (weights @ y) / total
        vx, vy = (weights @ np.square(x)) / total - mx**2, (weights @ np.square(y)) / total - my**2
        scale = np.sqrt(np.maximum(vx, 0) * np.maximum(vy, 0))
        shared = (weights @ (x * y)) / total - mx * my
        correlation: Floats = np.divide(shared, scale, out=np.full_like(scale, np.nan), where=scale > least)
        return correlation

    return of
