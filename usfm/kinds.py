"""The kinds of task that a head can be trained for, and how many numbers each asks of its network."""

from collections.abc import Sequence
from typing import Literal, get_args

from usfm.errors import ConfigError

__all__ = ["PRESENT_ABOVE", "TASK_KINDS", "TaskKind", "output_count"]

TaskKind = Literal["classification", "multilabel", "segmentation", "regression", "enhancement"]
TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
PRESENT_ABOVE = 0.5
"""A label of several is said to be there where its probability is above this; served and scored alike."""


def output_count(kind: TaskKind, classes: Sequence[str]) -> int:
    """Outputs of a network: one per class (the background is one), or 1 where a task has no classes.

    Args:
        kind: of the task.
        classes: names in the order of logits; for segmentation the first is the background. Empty for regression
            and enhancement.

    Raises:
        ConfigError: a task of classes without any, or the other way round.
    """
    if kind in ("regression", "enhancement"):
        if classes:
            raise ConfigError(f"a {kind} task has no classes, got {list(classes)}; leave them out")
        return 1
    if not classes:
        raise ConfigError(f"a {kind} task needs its classes, got none")
    return len(classes)
