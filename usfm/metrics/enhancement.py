"""Scores of restored images: against the clean one (PSNR, SSIM), between regions (gCNR), without any reference."""

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

__all__ = ["gcnr", "neighbourhood", "psnr", "speckle_index", "ssim"]

LEAST_ERROR = 1e-10  # mean squared error below which images count as equal: 100 dB
LEVELS = 256
WINDOW = 7
RING = 0.1
SHOWN = 10 / 255  # a window darker than this shows no echo


def psnr(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each image, (B,); equal images have 100 dB.

    Args:
        restored: (B, 1, H, W) in [0, 1].
        clean: (B, 1, H, W) in [0, 1].
    """
    error = (restored - clean).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error.clamp_min(LEAST_ERROR))


def ssim(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, (B,), with the usual Gaussian window of 11 px (torchmetrics).

    Args:
        restored: (B, 1, H, W) in [0, 1], sides of at least 11 px.
        clean: (B, 1, H, W) in [0, 1].

    Source: Wang et al., IEEE TIP 2004.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # slow to import

    value: torch.Tensor = structural_similarity_index_measure(restored, clean, data_range=1.0, reduction="none")  # type: ignore[assignment]
    return value.reshape(-1)


def gcnr(image: npt.NDArray[np.floating], inside: npt.NDArray[np.bool_], outside: npt.NDArray[np.bool_]) -> float:
    """Generalised contrast-to-noise ratio: 1 minus the overlap of the grey histograms of two regions, in [0, 1].

    1 = grey values tell them apart, 0 = they look alike. Unlike CNR no change of dynamic range can raise it.

    Args:
        image: (H, W) in [0, 1].
        inside: (H, W) True = the one region.
        outside: (H, W) True = the other.

    Returns:
        NaN where a region is empty.

    Source: Rodriguez-Molares et al., IEEE Trans. UFFC 67(4), 2020: 1 minus the overlap of two densities.
    """
    if not inside.any() or not outside.any():
        return float("nan")
    shares = []
    for region in (inside, outside):
        level = np.clip((image[region] * (LEVELS - 1)).round().astype(np.int64), 0, LEVELS - 1)
        shares.append(np.bincount(level, minlength=LEVELS) / len(level))
    return float(1 - np.minimum(*shares).sum())


def neighbourhood(region: npt.NDArray[np.bool_], share: float = RING) -> npt.NDArray[np.bool_]:
    """What lies around a region, (H, W): pixels outside it, within a share of the image's longer side."""
    radius = max(1, round(share * max(region.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(region.astype(np.uint8), disc) > 0) & ~region


def speckle_index(images: torch.Tensor) -> torch.Tensor:
    """How grainy an image is, without a reference: the median over windows of sd / mean of its grey values, (B,).

    The equivalent number of looks of a window is its inverse squared. The median makes edges count little. Lower =
    smoother; a blurred image scores well too, so it stands beside a score that sees what was lost, never alone.

    Args:
        images: (B, 1, H, W) in [0, 1], sides of at least 7 px.

    Returns:
        (B,); NaN where no window shows an echo.
    """
    mean = F.avg_pool2d(images, WINDOW, stride=1)
    spread = (F.avg_pool2d(images.square(), WINDOW, stride=1) - mean.square()).clamp_min(0).sqrt()
    ratio = torch.where(mean > SHOWN, spread / mean.clamp_min(SHOWN), torch.nan)
    return ratio.flatten(1).nanmedian(dim=1).values
