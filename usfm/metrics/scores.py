"""Scores of the report, each stated with its rule for empty cases."""

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, recall_score

from usfm.metrics.segmentation import region_overlap

__all__ = ["balanced_accuracy", "confusion", "dice", "overlap"]


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


def balanced_accuracy(predicted: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """Mean recall over the classes that occur in `truth` (scikit-learn), in [0, 1]."""
    # a class that is predicted without occurring costs the others recall; it has none of its own
    return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0))


def confusion(predicted: npt.NDArray[np.int64], truth: npt.NDArray[np.int64], classes: int) -> list[list[int]]:
    """Counts (K, K): rows are the truth, columns the prediction."""
    counts: list[list[int]] = confusion_matrix(truth, predicted, labels=list(range(classes))).tolist()
    return counts
