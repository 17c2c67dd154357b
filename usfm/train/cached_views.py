"""Fine-tuning of a head from cached features: the same batches and scores as from images, without the encoder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from usfm.data.fractions import fraction_rows
from usfm.data.tasks import load_folds, load_task
from usfm.metrics.evaluation import Evaluation, evaluate
from usfm.models.task_model import TaskModel
from usfm.train.context import WorkerContext
from usfm.train.feature_cache import FeatureCache
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_views import Batch, ImageViews

__all__ = ["CachedViews"]


class CachedViews:
    """`usfm.train.finetune_views.Views` of a frozen encoder, for a single worker."""

    def __init__(self, config: FinetuneConfig, context: WorkerContext, folder: Path) -> None:
        """Prepare.

        Args:
            config: of the run; `usfm.train.feature_cache.cacheable`.
            context: the worker.
            folder: the cache.

        Raises:
            DataError: the folder is no whole cache.
        """
        self._config, self._device, self._cache = config, context.device, FeatureCache(folder)
        self._sets = load_task(config.shards, config.task)
        train = self._sets["train"]
        chosen = fraction_rows(train, config.task, config.fraction, config.seed)
        self._images = ImageViews(config, self._sets, chosen, config.resolved_px(), context)
        # of a task in folds the cache holds every row under "train", whatever part of this fold it is in
        self._places = load_folds(config.shards, config.task)[1] if config.task.split_by == "folds" else None
        self._known: nn.Module | None = None

    def batch(self, step: int) -> Batch:
        """See `Views`; the inputs are row numbers."""
        rows, _ = self._images.rows(step)
        ids = [self._sets["train"].ids[int(row)] for row in rows]
        targets = self._cache.targets(self._cached("train", rows)[1])
        return Batch(rows, targets.to(self._device), ids)

    def answer(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Views`."""
        images = self._cache.images(self._cached("train", batch.inputs)[1]).to(self._device)
        network = self._checked(model)
        said: tuple[torch.Tensor, list[torch.Tensor]] = network.from_features(
            *self._features(network, "train", batch.inputs), images, auxiliary=True
        )  # type: ignore[assignment]
        return said

    def score(self, model: nn.Module, split: str, full: bool) -> Evaluation:
        """See `Views`."""
        network = self._checked(model)
        shown = _Shown(network, lambda rows: self._features(network, split, rows))
        return evaluate(shown, self._sets[split], self._config.task, network.img_px, self._device,
                        inputs=shown.remember, full=full)  # fmt: skip

    def _features(
        self, network: TaskModel, split: str, rows: npt.NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        taken, normed = self._cache.features(*self._cached(split, rows), network.head.blocks)
        return [tokens.to(self._device) for tokens in taken], normed.to(self._device)

    def _cached(self, split: str, rows: npt.NDArray[np.int64]) -> tuple[str, npt.NDArray[np.int64]]:
        """Where the cache has some rows of a part of the task."""
        return (split, rows) if self._places is None else ("train", self._places[split][rows])

    def _checked(self, model: nn.Module) -> TaskModel:
        if not isinstance(model, TaskModel):
            raise TypeError(f"features are cached for a TaskModel, got {type(model).__name__}")
        if model is not self._known:
            self._cache.require(model)
            self._known = model
        return model


class _Shown(nn.Module):
    """A network that is shown images, and takes their features from the cache by the numbers of their rows."""

    def __init__(
        self,
        network: TaskModel,
        features: Callable[[npt.NDArray[np.int64]], tuple[list[torch.Tensor], torch.Tensor]],
    ) -> None:
        super().__init__()
        self.network, self.img_px, self._features = network, network.img_px, features
        self._rows = np.zeros(0, np.int64)

    def remember(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Note which rows the next images are of; the images stay as they are."""
        self._rows = rows.cpu().numpy()
        return images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's answer to the images."""
        answer: torch.Tensor = self.network.from_features(*self._features(self._rows), images)  # type: ignore[assignment]
        return answer
