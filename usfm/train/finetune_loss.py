"""Which loss a kind of task is trained with, and the weights that balance its classes."""

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.labelled_set import LabelledSet
from usfm.losses.classification import classification_loss, multilabel_loss
from usfm.losses.regression import regression_loss
from usfm.losses.restoration import restoration_loss
from usfm.losses.segmentation import segmentation_loss
from usfm.train.finetune_config import FinetuneConfig

__all__ = ["TaskLoss", "class_weights", "target_spread"]


class TaskLoss:
    """The loss of a run's task."""

    def __init__(
        self, config: FinetuneConfig, train: LabelledSet, chosen: npt.NDArray[np.int64], device: torch.device
    ) -> None:
        """Prepare.

        Args:
            config: of the run.
            train: the training rows.
            chosen: (n,) rows of the label fraction; weights and spread are theirs.
            device: of the answers.
        """
        self._config = config
        self._weight: torch.Tensor | None = None
        if config.balance == "class_weights":
            self._weight = torch.from_numpy(class_weights(train, chosen, config)).to(device)
        self._deviation = 1.0
        if config.task.kind == "regression":
            self._deviation = target_spread(train, chosen, config)[1]

    def __call__(self, answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Scalar float32, of a network's answer and the target of its batch."""
        config = self._config
        match config.task.kind:
            case "classification":
                return classification_loss(answer, target, config.label_smoothing, self._weight)
            case "multilabel":
                return multilabel_loss(answer, target, self._weight)
            case "segmentation":
                return segmentation_loss(answer, target)
            case "regression":
                return regression_loss(answer, target, self._deviation)
            case "enhancement":
                return restoration_loss(answer, target, config.restoration)


def class_weights(
    train: LabelledSet, chosen: npt.NDArray[np.int64], config: FinetuneConfig
) -> npt.NDArray[np.float32]:
    """Weights by which every class counts as much as any other, (K,).

    For classification n / (K n_k); a class without rows in the fraction has weight 0. For multilabel the ratio of
    rows without to rows with the class, 1 where either is missing.
    """
    if config.task.kind == "multilabel":
        positive = train.target[chosen].sum(axis=0)
        negative = len(chosen) - positive
        ratio = np.ones(len(positive), np.float32)
        both = (positive > 0) & (negative > 0)
        ratio[both] = negative[both] / positive[both]
        return ratio
    counts = np.bincount(train.label[chosen], minlength=len(config.task.classes))
    weights = np.zeros(len(counts), np.float32)
    weights[counts > 0] = len(chosen) / (len(counts) * counts[counts > 0])
    return weights


def target_spread(train: LabelledSet, chosen: npt.NDArray[np.int64], config: FinetuneConfig) -> tuple[float, float]:
    """Mean and standard deviation of the chosen rows' numbers, as the network answers them for whole images."""
    values = train.target[chosen, 0] / train.view_scale(config.task)[chosen]
    return float(values.mean()), float(values.std())
