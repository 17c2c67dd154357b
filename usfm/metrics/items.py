"""What a network said of each item, as rows of a table: one function for each kind of task.

Every row has `id, group, organ, source, split, value`; `split` is that of the shards, and `value` what the
selecting score is the mean of, where it is a mean. Then by kind:

- classification: `truth, predicted, probability` (of the predicted class), `p_<class>`; value 1 = right, 0 = wrong;
- multilabel: `truth, predicted` (names that are on, joined by ";"; on = probability above
  `PRESENT_ABOVE`), `t_<class>` (1 = on), `p_<class>`; value = share of the labels that are right;
- segmentation: the columns of `usfm.metrics.segmentation.MaskScores`, with several classes also `<column>_<class>`;
  with `measure: circumference` also `circumference_mm, circumference_truth_mm`; value = Dice;
- regression: `truth, predicted, error, unit`; value = |error|;
- enhancement: `psnr, ssim, speckle_index, gcnr` of the restored image and the same with `_input` of what the
  network was given; gCNR between the region of the row's mask and its surroundings, NaN without; value = PSNR.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from usfm.data.labelled_set import LabelledSet
from usfm.data.mask_measures import ellipse_perimeter
from usfm.data.task_config import TaskConfig
from usfm.kinds import PRESENT_ABOVE
from usfm.metrics.enhancement import gcnr, neighbourhood, psnr, speckle_index, ssim
from usfm.metrics.segmentation import dice, mask_scores, mean_over_classes

__all__ = ["class_rows", "image_row", "label_rows", "mask_row", "number_rows"]

Row = dict[str, Any]
Bytes = npt.NDArray[np.uint8]


def class_rows(logits: torch.Tensor, numbers: Sequence[int], data: LabelledSet, task: TaskConfig) -> list[Row]:
    """Rows of a classification; logits (B, K) of the items `numbers`."""
    names, made = task.class_names, []
    for number, shares in zip(numbers, logits.softmax(dim=1).cpu().tolist(), strict=True):
        best, truth = int(np.argmax(shares)), int(data.label[number])
        made.append({
            **_common(data, number, float(best == truth)),
            "truth": names[truth], "predicted": names[best], "probability": shares[best],
            **{f"p_{name}": share for name, share in zip(names, shares, strict=True)},
        })  # fmt: skip
    return made


def label_rows(logits: torch.Tensor, numbers: Sequence[int], data: LabelledSet, task: TaskConfig) -> list[Row]:
    """Rows of a multilabel task; logits (B, K)."""
    names, made = task.class_names, []
    for number, shares in zip(numbers, logits.sigmoid().cpu().tolist(), strict=True):
        truth = [bool(on) for on in data.target[number] > 0.5]
        claimed = [share > PRESENT_ABOVE for share in shares]
        right = float(np.mean([a == b for a, b in zip(truth, claimed, strict=True)]))
        made.append({
            **_common(data, number, right), "truth": _joined(names, truth), "predicted": _joined(names, claimed),
            **{f"t_{name}": int(on) for name, on in zip(names, truth, strict=True)},
            **{f"p_{name}": share for name, share in zip(names, shares, strict=True)},
        })  # fmt: skip
    return made


def mask_row(drawn: npt.NDArray[np.integer], number: int, data: LabelledSet, task: TaskConfig, full: bool) -> Row:
    """Row of a segmentation; `drawn` (H, W) class numbers at the stored size of the image."""
    names = task.class_names
    truth = data.mask[number, : data.height[number], : data.width[number]]
    if not full:
        return _common(data, number, dice(drawn, truth, len(names)))
    spacing = float(data.spacing_mm[number])
    scores = mask_scores(drawn, truth, len(names), spacing)
    mean = mean_over_classes(scores)
    row = {**_common(data, number, mean["dice"]), **mean}
    if len(scores) > 1:
        for name, of_class in zip(names[1:], scores, strict=True):
            row |= {f"{key}_{name}": value for key, value in vars(of_class).items()}
    if task.measure == "circumference":
        row["circumference_mm"] = ellipse_perimeter(drawn) * spacing
        row["circumference_truth_mm"] = ellipse_perimeter(truth) * spacing
    return row


def number_rows(outputs: torch.Tensor, numbers: Sequence[int], data: LabelledSet, task: TaskConfig) -> list[Row]:
    """Rows of a regression; outputs (B, 1) as the network gives them for whole images."""
    made, scale = [], data.view_scale(task)
    for number, output in zip(numbers, outputs[:, 0].cpu().tolist(), strict=True):
        predicted, truth = output * float(scale[number]), float(data.target[number, 0])
        made.append({
            **_common(data, number, abs(predicted - truth)),
            "truth": truth, "predicted": predicted, "error": predicted - truth, "unit": task.unit,
        })  # fmt: skip
    return made


def image_row(
    restored: torch.Tensor, given: torch.Tensor, clean: torch.Tensor, number: int, data: LabelledSet, full: bool
) -> Row:
    """Row of an enhancement; all images (1, H, W) in [0, 1], at the stored size or squeezed."""
    restored, given, clean = restored[None], given[None], clean[None]
    value = float(psnr(restored, clean))
    row = _common(data, number, value)
    if full:
        region = _region(data, number, restored.shape[-2:])
        for image, suffix in ((restored, ""), (given, "_input")):
            row |= {f"psnr{suffix}": float(psnr(image, clean)), f"ssim{suffix}": float(ssim(image, clean)),
                    f"speckle_index{suffix}": float(speckle_index(image)),
                    f"gcnr{suffix}": gcnr(image[0, 0].cpu().numpy(), region, neighbourhood(region))}  # fmt: skip
    return row


def _region(data: LabelledSet, number: int, size: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Where the row's mask is on, (H, W) of the compared image."""
    stored = data.mask[number, : data.height[number], : data.width[number]]
    return np.asarray(cv2.resize(stored, (size[1], size[0]), interpolation=cv2.INTER_NEAREST) > 0)


def _common(data: LabelledSet, number: int, value: float) -> Row:
    return {"id": data.ids[number], "group": data.groups[number], "organ": data.organs[number],
            "source": data.sources[number], "split": data.splits[number], "value": value}  # fmt: skip


def _joined(names: Sequence[str], on: Sequence[bool]) -> str:
    return ";".join(name for name, here in zip(names, on, strict=True) if here)
