"""The rows of one part of a task, decoded."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from usfm.data.task_config import TaskConfig

__all__ = ["LabelledSet"]


@dataclass(frozen=True)
class LabelledSet:
    """The rows of one part of a task (train, val or test), decoded.

    Attributes:
        ids: row ids.
        groups: patient keys; a row whose patient is not known is its own group.
        image: (n, S, S) uint8 canvases.
        height: (n,) int64, px of the image on its canvas.
        width: (n,) int64.
        label: (n,) int64 class numbers (classification), else all zero.
        target: (n, T) float32: 0 or 1 per class (multilabel), or the number in its unit (regression, T = 1);
            else T = 0.
        mask: (n, S, S) uint8 class numbers (segmentation); 1 = the region that the row's mask shows, all 0 where it
            has none (enhancement, where contrast is measured between regions); else empty.
        pair: (n, S, S) uint8 canvases of the image in high quality (enhancement with real pairs), else empty.
        organs: organ of each row.
        sources: source of each row.
        licences: licence of each row.
        splits: split of each row in the shards; pre-training saw the images of "train", without labels.
        spacing_mm: (n,) float64 mm per pixel, NaN where not known.
        left_out: how many rows (multilabel: or single names) the task does not use, by reason; of a task in folds
            the same for every part, of all its rows (`usfm.data.left_out`).
    """

    ids: list[str]
    groups: list[str]
    image: npt.NDArray[np.uint8]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    target: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    pair: npt.NDArray[np.uint8]
    organs: list[str]
    sources: list[str]
    licences: list[str]
    splits: list[str]
    spacing_mm: npt.NDArray[np.float64]
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.NDArray[np.int64]) -> "LabelledSet":
        """Some of the rows, copied; `left_out` stays that of all."""

        def of(values: Any) -> Any:
            if isinstance(values, np.ndarray):
                return values[rows] if len(values) else values  # of masks or pairs that the task does not have
            return [values[row] for row in rows] if isinstance(values, list) else values

        return LabelledSet(**{name: of(values) for name, values in vars(self).items()})

    def view_scale(self, task: TaskConfig) -> npt.NDArray[np.float64]:
        """(n,) what a network's answer for each whole image is multiplied by to be the target."""
        sides = np.sqrt(self.height * self.width)
        return np.array([task.view_scale(s, mm) for s, mm in zip(sides, self.spacing_mm, strict=True)], np.float64)
