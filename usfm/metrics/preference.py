"""Which of several runs of one task stands for all: its bundle is kept, and its images are shown.

Without folds all runs are validated on one set, and the best of them stands for all. In folds each fold has a
validation set of its own: the best score would pick the fold whose patients are easy, for every initialisation and
label fraction another one. There the lowest fold stands for all, so that all are shown on the same patients, and
scores decide among the runs of that fold alone.
"""

from collections import Counter
from collections.abc import Iterable

from usfm.data.task_config import TaskConfig
from usfm.metrics.item_scores import HIGHER_IS_BETTER

__all__ = ["common_fold", "preference"]


def preference(task: TaskConfig, seed: int, metric: str, val_value: float, name: str) -> tuple[int, float, str]:
    """Sort key of a run that came to its end; the least one stands for all.

    Args:
        task: of the run.
        seed: of the run; in folds it says which one was tested (`TaskConfig.of_seed`).
        metric: the selecting score.
        val_value: that score on the run's validation set.
        name: of the run; the first of equals.
    """
    return task.of_seed(seed).fold, -val_value if HIGHER_IS_BETTER[metric] else val_value, name


def common_fold(folds: Iterable[int]) -> int:
    """The fold that most runs tested, the lowest of equals: runs of others are not compared with them.

    Args:
        folds: of the runs that are preferred, one each; at least one.
    """
    counts = Counter(folds)
    return min(counts, key=lambda fold: (-counts[fold], fold))
