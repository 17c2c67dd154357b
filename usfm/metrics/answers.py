"""What a network answers for a batch of items of a set, as rows (see `usfm.metrics.items`)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from usfm.data.augment import whole_images
from usfm.data.degrade import degrade
from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.errors import NonFiniteAnswer
from usfm.metrics.items import class_rows, image_row, label_rows, mask_row, number_rows
from usfm.models.windows import WindowConfig, WindowMode, predict_canvas, predict_canvases

__all__ = ["SEED", "Asking", "Inputs", "as_they_are"]

# images (B, 1, H, W) in [0, 1] and the numbers (B,) of their items to what the network shall see, of the same shape
Inputs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Row = dict[str, Any]
Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SEED = 0
"""Of synthetic inputs, unless another one is asked for: an item has one input, wherever it is scored or shown."""


def as_they_are(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The `Inputs` that change nothing."""
    return images


@dataclass(frozen=True)
class Asking:
    """How items of a set are shown to a network; attributes are the arguments of `evaluate`, with its defaults."""

    model: nn.Module
    data: LabelledSet
    task: TaskConfig
    img_px: int
    device: torch.device
    inputs: Inputs = as_they_are
    full: bool = True
    mode: WindowMode = "whole"
    overlap: float = WindowConfig().overlap
    seed: int = SEED

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Rows of some items.

        Raises:
            NonFiniteAnswer: the network answers one of them with NaN or infinity.
        """
        if self.task.kind == "segmentation":
            return self._masks(numbers)
        if self.task.kind == "enhancement":
            triples = zip(numbers, self.restored(numbers), strict=True)
            return [image_row(*triple, n, self.data, self.full) for n, triple in triples]
        of = {"classification": class_rows, "multilabel": label_rows, "regression": number_rows}[self.task.kind]
        outputs = self.model(self.inputs(self._squares(self.data.image, numbers), self._index(numbers))).float()
        self._require_finite(outputs, numbers)
        return of(outputs, numbers, self.data, self.task)

    def _masks(self, numbers: Sequence[int]) -> list[Row]:
        if self.mode == "whole":
            index = self._index(numbers)
            seen = _Seen(self.model, self.img_px, lambda squares: self.inputs(squares, index))
            logits = predict_canvases(seen, self._canvases(self.data.image, numbers), *self._sizes(numbers))
        else:
            logits = [self._slid(self.inputs(self._stored(self.data.image, n), self._index([n]))) for n in numbers]
        self._require_finite(logits, numbers)
        drawn = [one.argmax(dim=0).cpu().numpy() for one in logits]
        return [mask_row(mask, n, self.data, self.task, self.full) for mask, n in zip(drawn, numbers, strict=True)]

    def restored(self, numbers: Sequence[int]) -> list[Triple]:
        """Of an enhancement: answer, input and truth of some items as they are scored, each (1, H, W) in [0, 1].

        Squares of the network's size where whole images are shown to it, else of the image's stored size.

        Raises:
            NonFiniteAnswer: as of `rows`.
        """
        if self.mode != "whole":
            return [self._restored_by_windows(number) for number in numbers]
        given, clean = self._pair(numbers, self._squares)
        given = self.inputs(given, self._index(numbers))
        restored = self.model(given).float()
        self._require_finite(restored, numbers)
        return list(zip(restored.clamp(0, 1), given, clean, strict=True))

    def _restored_by_windows(self, number: int) -> Triple:
        given, clean = self._pair([number], lambda images, _: self._stored(images, number))
        given = self.inputs(given, self._index([number]))
        restored = self._slid(given)
        self._require_finite([restored], [number])
        return restored.clamp(0, 1), given[0], clean[0]

    def _require_finite(self, answers: Iterable[torch.Tensor], numbers: Sequence[int]) -> None:
        wrong = [n for answer, n in zip(answers, numbers, strict=True) if not bool(torch.isfinite(answer).all())]
        if wrong:
            raise NonFiniteAnswer(
                f"task {self.task.name}: the network's answer to {len(wrong)} of {len(numbers)} items is NaN or "
                f"infinite, the first is {self.data.ids[wrong[0]]}; it has diverged and has no score. Train it "
                "with a lower rate (optim.lr)"
            )

    def _pair(
        self, numbers: Sequence[int], view: Callable[[Any, Sequence[int]], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network is given and what it shall answer."""
        if self.task.degrade is None:
            return view(self.data.image, numbers), view(self.data.pair, numbers)
        clean = view(self.data.image, numbers)
        return degrade(clean, self._index(numbers), self.task.degrade, self.seed), clean

    def _slid(self, image: torch.Tensor) -> torch.Tensor:
        """(1, 1, H, W) to (K, H, W)."""
        high, wide = image.shape[2:]
        return predict_canvas(_Seen(self.model, self.img_px), image[0, 0], high, wide, "sliding", self.overlap)

    def _squares(self, images: Any, numbers: Sequence[int]) -> torch.Tensor:
        return whole_images(self._canvases(images, numbers), *self._sizes(numbers), self.img_px)

    def _stored(self, images: Any, number: int) -> torch.Tensor:
        """One image at its stored size, (1, 1, H, W) in [0, 1]."""
        high, wide = int(self.data.height[number]), int(self.data.width[number])
        return self._canvases(images, [number])[None, :, :high, :wide].float() / 255

    def _canvases(self, images: Any, numbers: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(images[list(numbers)]).to(self.device)

    def _sizes(self, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = list(numbers)
        return torch.from_numpy(self.data.height[chosen]), torch.from_numpy(self.data.width[chosen])

    def _index(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(numbers), device=self.device)


class _Seen(nn.Module):
    """A network of squares of a stated side, behind what changes its inputs."""

    def __init__(
        self, model: nn.Module, img_px: int, change: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        self.model, self.img_px, self.change = model, img_px, change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model(images if self.change is None else self.change(images))
        return output
