"""Views of a batch on the device: random crop and flip as functions of the sample's index, or the whole image."""

import math

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.draws import uniform
from usfm.rng import stream_key

__all__ = ["CropConfig", "crop_boxes", "random_crops", "resample", "whole_images"]

TRIES = 10


class CropConfig(Config):
    """Random resized crop (area share and aspect ratio) and horizontal flip; SimMIM's values.

    Attributes:
        min_area: smallest share of the image's area.
        max_area: largest share.
        max_ratio: aspect ratios lie in [1 / max_ratio, max_ratio], log-uniform.
        flip: probability of a left-right flip.
    """

    min_area: float = Field(default=0.67, gt=0, le=1)
    max_area: float = Field(default=1.0, gt=0, le=1)
    max_ratio: float = Field(default=4 / 3, ge=1)
    flip: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> "CropConfig":
        if self.min_area > self.max_area:
            raise ValueError(f"min_area {self.min_area} is above max_area {self.max_area}")
        return self


def crop_boxes(
    index: torch.Tensor, height: torch.Tensor, width: torch.Tensor, config: CropConfig, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop boxes and flips of some samples.

    Args:
        index: (B,) int64 global sample indices; the same row gets another crop each time it comes round.
        height: (B,) int64, px.
        width: (B,) int64, px.
        config: ranges.
        seed: of the run.

    Returns:
        Boxes (B, 4) float32 as top, left, height, width in px, inside the image; flips (B,) bool.
    """
    draws = uniform(stream_key(seed, "crop"), index, 2 * TRIES + 3)  # (B, 2 T + 3)
    high, wide = height.float()[:, None], width.float()[:, None]
    area = high * wide * (config.min_area + (config.max_area - config.min_area) * draws[:, :TRIES])
    log_ratio = math.log(config.max_ratio)
    ratio = torch.exp((2 * draws[:, TRIES : 2 * TRIES] - 1) * log_ratio)
    box_w, box_h = torch.sqrt(area * ratio), torch.sqrt(area / ratio)  # (B, T)
    fits = (box_w <= wide) & (box_h <= high)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first try that fits
    none = ~fits.any(dim=1, keepdim=True)
    # no try fits (a very long image): the whole image
    box_h = torch.where(none, high, box_h.gather(1, first))
    box_w = torch.where(none, wide, box_w.gather(1, first))
    top = draws[:, -3:-2] * (high - box_h)
    left = draws[:, -2:-1] * (wide - box_w)
    return torch.cat([top, left, box_h, box_w], dim=1), draws[:, -1] < config.flip


def resample(
    images: torch.Tensor, boxes: torch.Tensor, out_px: int, flip: torch.Tensor | None = None, nearest: bool = False
) -> torch.Tensor:
    """Cut boxes out of canvases and resample them to squares.

    Args:
        images: (B, S, S) uint8 or float canvases.
        boxes: (B, 4) top, left, height, width in px.
        out_px: side of the result.
        flip: (B,) bool, True = mirrored left to right.
        nearest: for masks; else bilinear, box-averaged where the box is much larger than the result.

    Returns:
        (B, 1, out_px, out_px) float32, in [0, 1] for uint8 input unless `nearest`, which keeps the values.
    """
    size = images.shape[-1]
    over = 1 if nearest else max(1, round(size / out_px))  # samples per output pixel and axis
    steps = (torch.arange(out_px * over, device=images.device, dtype=torch.float32) + 0.5) / (out_px * over)
    across = steps.expand(len(boxes), -1)
    if flip is not None:
        across = torch.where(flip[:, None], across.flip(1), across)
    # pixel centres lie at +0.5; samples stay inside the box, so the canvas's empty part never bleeds in
    y = _inside(boxes[:, 0:1] + steps * boxes[:, 2:3], boxes[:, 0:1], boxes[:, 2:3])
    x = _inside(boxes[:, 1:2] + across * boxes[:, 3:4], boxes[:, 1:2], boxes[:, 3:4])
    grid = torch.stack(
        [
            (2 * x / size - 1)[:, None, :].expand(-1, y.shape[1], -1),
            (2 * y / size - 1)[:, :, None].expand(-1, -1, x.shape[1]),
        ],
        dim=-1,
    )
    source = images[:, None].float()
    if images.dtype == torch.uint8 and not nearest:
        source = source / 255
    mode = "nearest" if nearest else "bilinear"
    out = F.grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=False)
    return F.avg_pool2d(out, over) if over > 1 else out


def _inside(at: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Keep sample positions half a pixel inside the box."""
    return torch.maximum(torch.minimum(at, start + length - 0.5), start + 0.5)


def random_crops(batch: dict[str, torch.Tensor], out_px: int, config: CropConfig, seed: int) -> torch.Tensor:
    """The training view of a batch of the stream, (B, 1, out_px, out_px) float32 in [0, 1]."""
    boxes, flip = crop_boxes(batch["index"], batch["height"], batch["width"], config, seed)
    return resample(batch["image"], boxes, out_px, flip)


def whole_images(canvases: torch.Tensor, height: torch.Tensor, width: torch.Tensor, out_px: int) -> torch.Tensor:
    """The view of evaluation and serving: each whole image squeezed to a square, its proportions given up.

    Args:
        canvases: (B, S, S) uint8, each image top left.
        height: (B,) px of each image on its canvas.
        width: (B,) px.
        out_px: side of the result.

    Returns:
        (B, 1, out_px, out_px) float32 in [0, 1].
    """
    none = torch.zeros(len(canvases))
    boxes = torch.stack([none, none, height.float(), width.float()], dim=1)
    return resample(canvases, boxes.to(canvases.device), out_px)
