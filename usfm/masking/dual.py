"""The dual mask: clean image -> band-stop -> mean-filled patch mask -> one corrupted image.

Source: USFM (arXiv 2401.00153); the order is known (from the authors' data code). Either mask can be switched off
with its `ratio: 0`, for ablation.
"""

from dataclasses import dataclass

import torch
from torch import nn

from usfm.masking.frequency import BandStopConfig, band_masks, band_stop, choose_bands, half_spectrum
from usfm.masking.patches import PatchMaskConfig, fill_hidden, hidden_units, patch_mask, upsample_mask

__all__ = ["Corrupted", "DualMask"]


@dataclass(frozen=True)
class Corrupted:
    """What the dual mask made of a batch.

    Attributes:
        images: (B, C, S, S) float32, the corrupted images, in [0, 1] up to ringing of the band-stop.
        tokens: (B, S // P, S // P) bool, True = hidden.
        bands: (B, K) bool, True = removed.
        stopped: (B, C, S, S) float32, after the band-stop and before the patch mask (for pictures).
    """

    images: torch.Tensor
    tokens: torch.Tensor
    bands: torch.Tensor
    stopped: torch.Tensor


class DualMask(nn.Module):
    """Corrupts batches; every mask is a pure function of (seed, sample index).

    A module without parameters, so that its constants move with the model; checkpoints do not hold them.
    """

    bands: torch.Tensor
    """(K, S, S // 2 + 1) float32, the bands as `half_spectrum` has them."""

    def __init__(
        self,
        size_px: int,
        patch_px: int,
        spatial: PatchMaskConfig,
        frequency: BandStopConfig,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        """Build the constant band masks.

        Raises:
            ConfigError: the masks do not fit the image side (see `hidden_units`, `BandStopConfig.removed`).
        """
        super().__init__()
        self.size_px, self.patch_px, self.spatial, self.seed = size_px, patch_px, spatial, seed
        hidden_units(size_px, patch_px, spatial)
        self.radii = frequency.radii(size_px)
        self.removed = frequency.removed(size_px)
        self.register_buffer("bands", half_spectrum(band_masks(size_px, self.radii, device)), persistent=False)

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> Corrupted:
        """Corrupt (B, C, S, S) float32 images in [0, 1] with (B,) int64 sample indices."""
        chosen = choose_bands(index, len(self.bands), self.removed, self.seed)
        stopped = band_stop(images, self.bands, chosen) if self.removed else images
        tokens = patch_mask(index, self.size_px, self.patch_px, self.spatial, self.seed)
        pixels = upsample_mask(tokens, self.patch_px)
        return Corrupted(fill_hidden(stopped, pixels, self.spatial, index, self.seed), tokens, chosen, stopped)
