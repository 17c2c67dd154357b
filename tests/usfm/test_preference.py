"""Which of several runs stands for all."""

from shard_factory import VIEW

from usfm.data.task_config import TaskConfig
from usfm.metrics.preference import common_fold, preference

Run = tuple[int, str, float, str]


def first(task: TaskConfig, *runs: Run) -> str:
    """Name of the preferred one of (seed, metric, val_value, name)."""
    return min(runs, key=lambda run: preference(task, *run))[-1]


def test_without_folds_the_best_validation_score_is_preferred() -> None:
    task = TaskConfig.build(VIEW)
    assert first(task, (0, "auroc", 0.6, "a"), (1, "auroc", 0.7, "b")) == "b"
    assert first(task, (0, "mae", 0.6, "a"), (1, "mae", 0.7, "b")) == "a"  # an error
    assert first(task, (1, "auroc", 0.6, "b"), (0, "auroc", 0.6, "a")) == "a"  # the first name of equals


def test_in_folds_the_lowest_fold_is_preferred_and_scores_decide_inside_it() -> None:
    task = TaskConfig.build({**VIEW, "split_by": "folds", "folds": 3})
    assert first(task, (1, "auroc", 0.9, "a"), (3, "auroc", 0.5, "b")) == "b"  # seed 3 tests fold 0
    assert first(task, (0, "auroc", 0.5, "a"), (3, "auroc", 0.6, "b")) == "b"
    assert first(task, (5, "mae", 0.5, "a"), (2, "mae", 0.4, "b")) == "b"
    assert first(task, (3, "auroc", 0.5, "b"), (0, "auroc", 0.5, "a")) == "a"
    assert first(task.of_seed(1), (1, "auroc", 0.9, "a"), (0, "auroc", 0.5, "b")) == "b"  # the seed says the fold


def test_the_common_fold_is_the_lowest_of_equals() -> None:
    assert common_fold([2, 0, 2]) == 2
    assert common_fold([2, 1, 1, 2]) == 1
    assert common_fold([4]) == 4
