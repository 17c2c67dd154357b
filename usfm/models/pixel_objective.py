"""The paper's objective, spatial-frequency dual masked image modelling. Source: USFM (arXiv 2401.00153)."""

import torch

from usfm.losses.frequency import frequency_loss
from usfm.losses.spatial import spatial_loss
from usfm.masking.dual import Corrupted, DualMask
from usfm.masking.frequency import removed_spectrum
from usfm.masking.patches import upsample_mask
from usfm.models.decoder import PixelShuffleDecoder
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.objective import Objective, ObjectiveConfig, ObjectiveOutput

__all__ = ["PixelObjective"]


class PixelObjective(Objective):
    """Dual masked image modelling: one corrupted image, one reconstruction, a spatial and a frequency loss (known).

    Both losses compare with the clean image (known), in the encoder's normalised grey values (likely, as SimMIM).
    """

    term_names = ("spatial", "frequency")

    def __init__(self, encoder: EncoderConfig, objective: ObjectiveConfig, seed: int) -> None:
        super().__init__()
        self.config = objective
        self.encoder = Encoder(encoder)
        self.decoder = PixelShuffleDecoder(encoder.width, encoder.patch_px)
        self.mask = DualMask(
            encoder.img_px, encoder.patch_px, objective.spatial_mask, objective.frequency_mask, seed
        )

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> ObjectiveOutput:
        """One pass over clean images.

        Args:
            images: (B, 1, S, S) float32 grey values in [0, 1].
            index: (B,) int64 global sample indices; they decide the masks.
        """
        corrupted = self.mask(images, index)
        tokens = self.encoder(corrupted.images, corrupted.tokens)
        return self.compare(images, corrupted, self.decoder(tokens[:, 1:]).float())

    def compare(self, images: torch.Tensor, corrupted: Corrupted, predicted: torch.Tensor) -> ObjectiveOutput:
        """Both losses.

        Args:
            images: (B, 1, S, S) float32, clean, in [0, 1].
            corrupted: what the masks made of them.
            predicted: (B, 1, S, S) float32 normalised grey values.
        """
        config, scale = self.config, self.encoder.config
        target = (images - scale.mean) / scale.std
        hidden = upsample_mask(corrupted.tokens, scale.patch_px)
        support = None
        if config.support == "removed_bands":
            support = removed_spectrum(self.mask.bands, corrupted.bands)
        spatial = spatial_loss(predicted, target, hidden)
        frequency = torch.zeros((), device=images.device)  # a loss that does not count costs no transform
        if config.frequency_weight > 0:
            frequency = frequency_loss(predicted, target, config.focal, support)
        loss = config.spatial_weight * spatial + config.frequency_weight * frequency
        with torch.no_grad():
            # with no patch hidden (frequency-only), images are told apart by the error of all their pixels
            counted = hidden if config.spatial_mask.ratio > 0 else torch.ones_like(hidden)
            error = ((predicted - target).abs() * counted[:, None]).sum(dim=(1, 2, 3))
            per_sample = error / counted.sum(dim=(1, 2))
        terms = {"spatial": spatial.detach(), "frequency": frequency.detach()}
        return ObjectiveOutput(loss, terms, per_sample, corrupted, (predicted * scale.std + scale.mean).detach())
