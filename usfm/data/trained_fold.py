"""The fold that a bundle was kept from: it was trained on the patients of all others, on which it is not scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from usfm.data.location import absolute
from usfm.data.shards import ShardIndex
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import dealing
from usfm.errors import ConfigError

__all__ = ["TrainedFold", "fold_metrics"]


def fold_metrics(shards: str, task: TaskConfig) -> dict[str, Any]:
    """What a bundle keeps of the fold that it is tested on, beside the shards' fingerprint; {} without folds.

    It is for `TrainedFold.of`. Who is in which fold depends on all rows, and shards may be ingested anew.
    """
    return {"fold": task.fold, "dealt": dealing(shards, task)} if task.split_by == "folds" else {}


@dataclass(frozen=True)
class TrainedFold:
    """How a bundle was trained, if in folds.

    Attributes:
        bundle: where it lies.
        trained_from: the shards that the run or sweep around it names; None = there is none.
        fold: that it is tested on; None = it was not trained in folds.
        dealt: digest of the folds (`usfm.data.tasks.dealing`); None = it is from before that was kept.
        fingerprint: of the shards; None = it is from before that was kept.
    """

    bundle: Path
    trained_from: str | None
    fold: int | None
    dealt: str | None
    fingerprint: str | None

    @classmethod
    def of(cls, bundle: Path, metrics: Mapping[str, Any], trained_from: str | None) -> Self:
        """As the metrics of a bundle say it."""
        fold = int(metrics["fold"]) if "fold" in metrics else None
        return cls(bundle, trained_from, fold, metrics.get("dealt"), metrics.get("shards_fingerprint"))

    def is_of(self, shards: str) -> bool | None:
        """Whether it was trained from these shards, wherever they lie now; None = nothing says so.

        Raises:
            ShardError: there are no shards.
        """
        if self.trained_from is not None and absolute(shards) == absolute(self.trained_from):
            return True  # though they may have been ingested anew since
        if self.fingerprint is not None:
            return bool(ShardIndex.load(shards).fingerprint == self.fingerprint)
        return None if self.trained_from is None else False

    def require_unseen(self, task: TaskConfig, shards: str, split: str, sources: list[str] | None) -> None:
        """Refuse a split that would hold patients that the bundle was trained on.

        Args:
            task: with the bundle's fold.
            shards: that are scored.
            split: of them; not "all", which leaves it to the user what the bundle never saw.
            sources: whose rows are scored alone; None = those of the task.

        Raises:
            ConfigError: other shards or sources, another kind of split, patients that were dealt into other folds,
                or nothing says from which shards the bundle was trained.
            ShardError: there are no shards.
        """
        in_folds, leaks = task.split_by == "folds", f"split={split} would hold patients that it was trained on"
        if self.fold is None:
            if in_folds:
                self._refuse(
                    f"was not trained in folds, the task has split_by=folds: {leaks}",
                    "give the split_by that it was trained with",
                )
            return
        same = self.is_of(shards)
        unknown = "was trained in folds, and neither it nor a run or sweep around it says of which shards"
        if not in_folds:
            if same is False:
                return  # no split of other shards is a fold
            why, of = ("was trained in folds", "") if same else (unknown, "of these ")
            self._refuse(f"{why}, the task has split_by={task.split_by}: {of}{leaks}", "leave task out")
        if same is False or sources is not None:
            self._refuse(
                f"was trained on other folds of its shards: split={split} of other shards, or with "
                f"sources={sources}, would hold patients that it was trained on",
                "leave them out",
            )
        if self.dealt is None:
            if same is None:
                self._refuse(f"{unknown}: its fold of {shards} may hold patients that it was trained on")
        elif (now := dealing(shards, task)) != self.dealt:
            self._refuse(
                f"was trained while the patients of {shards} were dealt into other folds (digest {self.dealt}, now "
                f"{now}), since the shards or the task have other rows now: {leaks}",
                "give both as they were",
            )

    def _refuse(self, why: str, instead: str = "") -> NoReturn:
        other = f"{instead}, or " if instead else ""
        raise ConfigError(f"{self.bundle} {why}; {other}give split=all and data that it never saw")
