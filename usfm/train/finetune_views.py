"""What a fine-tuning run learns from and is judged by: rows of the label fraction as images and targets, scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from usfm.data.augment import crop_boxes, resample
from usfm.data.degrade import degrade
from usfm.data.fractions import strata
from usfm.data.labelled_set import LabelledSet
from usfm.draws import uniform
from usfm.metrics.evaluation import Evaluation, evaluate
from usfm.rng import stream_key
from usfm.train.context import WorkerContext
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_order import balanced_rows, shuffled_rows

__all__ = ["Batch", "ImageViews", "Views", "turned"]


@dataclass(frozen=True)
class Batch:
    """One worker's part of a step.

    Attributes:
        inputs: what the network takes: images (B, 1, S, S) float32 in [0, 1].
        target: (B,) int64 class numbers, (B, K) float32 classes, (B, S, S) int64 masks, (B, 1) float32 numbers as
            the network answers them, or (B, 1, S, S) float32 clean images.
        ids: row ids, for a complaint.
    """

    inputs: Any
    target: torch.Tensor
    ids: list[str]


class Views(Protocol):
    """Where batches come from, how a network takes them, and how it is judged."""

    def batch(self, step: int) -> Batch:
        """This worker's part of a step, a pure function of (seed, step, worker)."""

    def answer(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What the network says to a batch, and what its auxiliary loss takes; with gradients."""

    def score(self, model: nn.Module, split: str, full: bool) -> Evaluation:
        """Judge a network on a split ("val", "test"); `full` = all scores, else the one that selects."""


class ImageViews:
    """Batches of decoded rows, augmented on the device; whole images for judging."""

    def __init__(
        self,
        config: FinetuneConfig,
        sets: Mapping[str, LabelledSet],
        chosen: npt.NDArray[np.int64],
        img_px: int,
        context: WorkerContext,
    ) -> None:
        """Prepare.

        Args:
            config: of the run.
            sets: the rows by split.
            chosen: (n,) training rows of the label fraction.
            img_px: side of the network's input.
            context: which part of a batch is this worker's, and where it computes.
        """
        self._config, self._sets, self._chosen, self._px = config, sets, chosen, img_px
        self._data = sets["train"]
        self._rank, self._world, self._device = context.rank, context.world_size, context.device
        self._strata = strata(self._data, config.task) if config.balance == "balanced_sampling" else None

    def batch(self, step: int) -> Batch:
        """See `Views`."""
        return self.look(*self.rows(step))

    def rows(self, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """This worker's rows of a step, and their places among all samples of the run, each (B,)."""
        config = self._config
        position = step * config.batch_size + np.arange(config.batch_size)
        if self._strata is None:
            rows = shuffled_rows(position, self._chosen, config.seed)
        else:
            rows = balanced_rows(position, self._chosen, self._strata, config.seed)
        return rows[self._rank :: self._world], position[self._rank :: self._world]

    def look(self, rows: npt.NDArray[np.int64], position: npt.NDArray[np.int64]) -> Batch:
        """Images and targets of some training rows; the augmentation is a function of (seed, place)."""
        config, data, index = self._config, self._data, torch.from_numpy(position)
        height, width = torch.from_numpy(data.height[rows]), torch.from_numpy(data.width[rows])
        boxes, flip, turn = self._boxes(index, height, width)
        images, kind = resample(self._on(data.image[rows]), boxes, self._px, flip), config.task.kind
        if config.degrade_views is not None:  # while rows are still depth
            images = degrade(images, index.to(self._device), config.degrade_views, config.seed)
        images = turned(images, turn)
        if kind == "segmentation":
            masks = resample(self._on(data.mask[rows]), boxes, self._px, flip, nearest=True)
            target = turned(masks, turn)[:, 0].long()
        elif kind == "classification":
            target = self._on(data.label[rows])
        elif kind == "multilabel":
            target = self._on(data.target[rows])
        elif kind == "regression":
            target = self._on(data.target[rows]) / self._scale(rows, boxes)
        elif config.task.degrade is None:
            target = turned(resample(self._on(data.pair[rows]), boxes, self._px, flip), turn)
        else:
            target = images
            images = degrade(target, index.to(self._device), config.task.degrade, config.seed)
        return Batch(images, target, [data.ids[int(row)] for row in rows])

    def answer(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `Views`."""
        said: tuple[torch.Tensor, list[torch.Tensor]] = model(batch.inputs, auxiliary=True)
        return said

    def score(self, model: nn.Module, split: str, full: bool) -> Evaluation:
        """See `Views`."""
        config = self._config
        shown = config.inference.model_dump()  # mode, overlap
        return evaluate(model, self._sets[split], config.task, self._px, self._device, full=full, **shown)

    def _boxes(
        self, index: torch.Tensor, height: torch.Tensor, width: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Parts of the images (B, 4), which are mirrored (B,), and by how many right angles they turn (B,)."""
        config = self._config
        if config.views == "whole":
            none = torch.zeros(len(index))
            boxes = torch.stack([none, none, height.float(), width.float()], dim=1)
            return boxes.to(self._device), None, None
        boxes, flip = crop_boxes(index, height, width, config.crop, config.seed)
        turn = None
        if config.flip_vertical or config.rotate90:
            draws = uniform(stream_key(config.seed, "turn"), index, 3)
            angle = torch.where(draws[:, 0] < config.rotate90, 1 + (3 * draws[:, 1]).long(), 0)
            upside_down = draws[:, 2] < config.flip_vertical
            # a vertical flip is a horizontal one turned by two right angles
            flip, turn = flip ^ upside_down, (angle + 2 * upside_down) % 4
        return boxes.to(self._device), flip.to(self._device), turn

    def _scale(self, rows: npt.NDArray[np.int64], boxes: torch.Tensor) -> torch.Tensor:
        """What the answer for each view is multiplied by to be the target, (B, 1)."""
        sides = (boxes[:, 2] * boxes[:, 3]).sqrt().tolist()
        spacing = self._data.spacing_mm[rows]
        scales = [self._config.task.view_scale(side, mm) for side, mm in zip(sides, spacing, strict=True)]
        return torch.tensor(scales, dtype=torch.float32, device=self._device)[:, None]

    def _on(self, values: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._device)


def turned(images: torch.Tensor, turn: torch.Tensor | None) -> torch.Tensor:
    """Squares (B, C, S, S), each turned counter-clockwise by so many right angles, (B,) int64; None = none."""
    if turn is None:
        return images
    return torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turn, strict=True)])
