"""Probes of frozen features: nearest neighbours and a linear model. Nothing here knows where features come from.

Source: weighted kNN as in Wu et al. (CVPR 2018, arXiv 1805.01978) and DINO; a linear probe on standardised
features; for masks a linear map of each token to the share of every class in its patch (as the linear evaluation of
DINOv2, with least squares instead of gradient steps).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from usfm.data.folds import group_folds
from usfm.metrics.classification import balanced_accuracy

__all__ = [
    "choose_strength",
    "choose_threshold",
    "fit_token_map",
    "knn_predict",
    "linear_predict",
    "token_shares",
]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
THRESHOLDS = np.linspace(0.05, 0.95, 19)
TOKEN_RIDGE = 1e-3  # of the number of tokens; features are standardised
MAX_ITERATIONS = 5000
INNER_FOLDS = 3


def knn_predict(
    fit: Floats, labels: Ints, asked: Floats, classes: int, k: int = 20, temperature: float = 0.07
) -> Ints:
    """Class of each row by a vote of its k nearest rows, weighted by exp(cosine / temperature).

    Args:
        fit: (n, D).
        labels: (n,) class numbers.
        asked: (m, D).
        classes: number of classes.
        k: neighbours; all rows where there are fewer.
        temperature: small = near neighbours count more.

    Returns:
        (m,) class numbers. Among equal votes the lowest number wins, among equal similarities the first row.
    """
    similarity = _unit(asked) @ _unit(fit).T  # (m, n)
    near = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    cosine = np.take_along_axis(similarity, near, axis=1)
    weight = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / temperature)
    votes = np.zeros((len(asked), classes))
    np.add.at(votes, (np.arange(len(asked))[:, None], labels[near]), weight)
    best: Ints = votes.argmax(axis=1).astype(np.int64)
    return best


def linear_predict(fit: Floats, labels: Ints, asked: Floats, strength: float = 1.0) -> Ints:
    """Class of each row by multinomial logistic regression; classes weigh the same however many rows they have.

    Args:
        fit: (n, D); mean and standard deviation of each feature come from here.
        labels: (n,) class numbers; if all are the same, that one is the answer.
        asked: (m, D).
        strength: inverse of the L2 penalty (scikit-learn's C).

    Returns:
        (m,) class numbers.
    """
    if len(np.unique(labels)) == 1:
        return np.full(len(asked), labels[0], np.int64)
    mean, scale = _moments(fit)
    from sklearn.linear_model import LogisticRegression  # slow to import

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS)
    model.fit((fit - mean) / scale, labels)
    best: Ints = model.predict((asked - mean) / scale).astype(np.int64)
    return best


def choose_strength(fit: Floats, labels: Ints, groups: list[str], strengths: list[float], seed: int) -> float:
    """The strength with the best balanced accuracy over grouped folds of the rows to fit; the first of equals."""
    if len(strengths) == 1 or _fewest_groups(labels, groups) < INNER_FOLDS:
        return strengths[0]
    folds = group_folds(labels, groups, INNER_FOLDS, seed)
    scores = []
    for strength in strengths:
        predicted = np.empty_like(labels)
        for number in range(INNER_FOLDS):
            out = folds == number
            predicted[out] = linear_predict(fit[~out], labels[~out], fit[out], strength)
        scores.append(balanced_accuracy(predicted, labels))
    return strengths[int(np.argmax(scores))]


def fit_token_map(tokens: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Least squares from tokens to the share of each class in their patch, with a small ridge.

    Args:
        tokens: (n, D).
        shares: (n, K) in [0, 1].

    Returns:
        Weights (D, K) and offsets (K,) for tokens as they come.
    """
    mean, scale = _moments(tokens)
    x = ((tokens - mean) / scale).astype(np.float64)
    centre = shares.mean(axis=0)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += TOKEN_RIDGE * len(x)
    weights = np.linalg.solve(gram, x.T @ (shares - centre)) / scale[:, None]
    return weights, centre - mean @ weights


def choose_threshold(shares: Sequence[tuple[Floats, npt.NDArray[np.bool_]]]) -> float:
    """The foreground share above which a pixel is drawn: the one of `THRESHOLDS` with the best mean Dice.

    Args:
        shares: of each image the predicted foreground share and the true foreground, both (H, W).
    """
    scores = np.zeros(len(THRESHOLDS))
    for predicted, truth in shares:
        level = np.digitize(predicted, THRESHOLDS, right=True)  # how many thresholds the pixel exceeds
        drawn, hit = _exceeding(level), _exceeding(level[truth])
        both = drawn + int(truth.sum())
        scores += np.where(both > 0, 2 * hit / np.maximum(both, 1), 1.0)
    return float(THRESHOLDS[scores.argmax()])


def _exceeding(level: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Pixels above each threshold."""
    counts = np.bincount(level.ravel(), minlength=len(THRESHOLDS) + 1)
    above: npt.NDArray[np.integer] = counts[::-1].cumsum()[::-1][1:]
    return above


def token_shares(mask: npt.NDArray[np.uint8], classes: int, grid: int) -> Floats:
    """Share of each class in every patch of a mask squeezed to a square.

    Args:
        mask: (H, W) class numbers.
        classes: K, background included.
        grid: patches per side.

    Returns:
        (grid, grid, K) float64; the last axis sums to one.
    """
    down, across = _overlaps(mask.shape[0], grid), _overlaps(mask.shape[1], grid)  # (G, H), (G, W)
    return np.stack([down @ (mask == number) @ across.T for number in range(classes)], axis=-1)


def _overlaps(size: int, cells: int) -> npt.NDArray[np.float64]:
    """Share of each pixel in every cell of an axis, (cells, size), rows sum to one."""
    edges = np.linspace(0, size, cells + 1)
    start, stop = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)[None, :]
    inside = np.clip(np.minimum(stop, pixel + 1) - np.maximum(start, pixel), 0, None)
    shares: npt.NDArray[np.float64] = inside * (cells / size)
    return shares


def _moments(features: Floats) -> tuple[Floats, Floats]:
    mean, scale = features.mean(axis=0), features.std(axis=0)
    return mean, np.where(scale > 1e-12, scale, 1.0)


def _unit(features: Floats) -> Floats:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit: Floats = features / np.maximum(length, 1e-12)
    return unit


def _fewest_groups(labels: Ints, groups: list[str]) -> int:
    of_class: dict[int, set[str]] = {}
    for label, group in zip(labels.tolist(), groups, strict=True):
        of_class.setdefault(label, set()).add(group)
    return min(map(len, of_class.values()))
