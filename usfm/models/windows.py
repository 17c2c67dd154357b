"""A network's answer at an image's own size: the whole image squeezed to the network's square, or windows over it.

"whole" is what training showed the network: the image resampled to a square, its proportions given up. "sliding"
keeps the image's pixels as they are and blends overlapping windows (MONAI); it fits networks that were trained on
parts of images, or whose square is much smaller than the image. A pixel's size in mm is that of the image in both.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from usfm.config import Config
from usfm.data.augment import whole_images
from usfm.errors import ConfigError

__all__ = ["WindowConfig", "WindowMode", "predict_canvas", "predict_canvases"]

WindowMode = Literal["whole", "sliding"]
WINDOWS_AT_ONCE = 16


class WindowConfig(Config):
    """How an image is shown to a network that answers for every pixel.

    Attributes:
        mode: "whole" = squeezed to the network's square; "sliding" = windows at the image's own pixels.
        overlap: share of a window's side that the next one covers again; sliding alone.
    """

    mode: WindowMode = "whole"
    overlap: float = Field(default=0.25, ge=0, lt=1)


def predict_canvas(
    model: nn.Module,
    canvas: torch.Tensor,
    height: int,
    width: int,
    mode: WindowMode = "whole",
    overlap: float = 0.25,
    residual: bool = False,
) -> torch.Tensor:
    """The answer for one image; see `predict_canvases`.

    Args:
        model: as there.
        canvas: (S, S) uint8, or float32 in [0, 1], the image top left.
        height: px of the image on its canvas.
        width: px.
        mode: as there.
        overlap: as there.
        residual: as there.

    Returns:
        (K, height, width) float32.
    """
    size = torch.tensor([[height], [width]])
    return predict_canvases(model, canvas[None], size[0], size[1], mode, overlap, residual)[0]


def predict_canvases(
    model: nn.Module,
    canvases: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
    mode: WindowMode = "whole",
    overlap: float = 0.25,
    residual: bool = False,
) -> list[torch.Tensor]:
    """Answers of a network for every pixel of some images.

    Args:
        model: (B, 1, P, P) grey values in [0, 1] to (B, K, P, P), P = `model.img_px`; in eval mode.
        canvases: (B, S, S) uint8, or float32 in [0, 1], each image top left, on the model's device.
        height: (B,) int64, px of each image on its canvas.
        width: (B,) int64, px.
        mode: "whole" = squeezed to P x P and the answer resized bilinearly; "sliding" = windows of P x P pixels at
            the image's own pixels, weighted by a Gaussian where they overlap; an image that is smaller than a
            window is continued by its edge.
        overlap: share of a window's side that the next window covers again, in [0, 1).
        residual: the network restores images (K = 1): in mode "whole" what it changed is resized and added to the
            image, so that detail finer than its square stays; sliding windows need no such care.

    Returns:
        B tensors (K, H, W) float32 at each image's own size.

    Raises:
        ConfigError: `overlap` is out of range.
    """
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap {overlap} is not in [0, 1): windows have to move on")
    sizes: Sequence[tuple[int, int]] = list(zip(height.tolist(), width.tolist(), strict=True))
    img_px: int = model.img_px  # type: ignore[assignment]
    grey = canvases.float() / 255 if canvases.dtype == torch.uint8 else canvases
    if mode == "sliding":
        return [_sliding(model, image[:h, :w], img_px, overlap) for image, (h, w) in zip(grey, sizes, strict=True)]
    squares = whole_images(canvases, height, width, img_px)
    answers = model(squares).float()
    if residual:
        answers = answers - squares
    full = [
        F.interpolate(answer[None], size, mode="bilinear", align_corners=False)[0]
        for answer, size in zip(answers, sizes, strict=True)
    ]
    if residual:
        full = [image[None, :h, :w] + change for image, change, (h, w) in zip(grey, full, sizes, strict=True)]
    return full


def _sliding(model: nn.Module, image: torch.Tensor, img_px: int, overlap: float) -> torch.Tensor:
    """(H, W) in [0, 1] to (K, H, W)."""
    from monai.inferers import sliding_window_inference  # slow to import, and whole images need none of it

    answer: torch.Tensor = sliding_window_inference(
        image[None, None],
        roi_size=(img_px, img_px),
        sw_batch_size=WINDOWS_AT_ONCE,
        predictor=lambda windows: model(windows).float(),
        overlap=overlap,
        mode="gaussian",
        padding_mode="replicate",
    )
    return answer[0]
