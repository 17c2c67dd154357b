"""Pre-training objectives, one explicit table. `pixel` is the paper's dual masked image modelling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from usfm.config import Config
from usfm.losses.frequency import frequency_loss
from usfm.losses.spatial import spatial_loss
from usfm.masking.dual import Corrupted, DualMask
from usfm.masking.frequency import BandStopConfig, removed_spectrum
from usfm.masking.patches import PatchMaskConfig, upsample_mask
from usfm.models.decoder import PixelShuffleDecoder
from usfm.models.encoder import Encoder, EncoderConfig

__all__ = ["OBJECTIVES", "Objective", "ObjectiveConfig", "ObjectiveOutput", "PixelObjective"]


class ObjectiveConfig(Config):
    """What is predicted from the corrupted image, and how the error counts.

    Attributes:
        kind: a key of `OBJECTIVES`.
        spatial_mask: the patch mask.
        frequency_mask: the band-stop.
        spatial_weight: weight of the spatial loss; 0 leaves it out.
        frequency_weight: weight of the frequency loss (unknown in the paper; A2MIM's 0.1); 0 leaves it out.
        focal: focal weighting of the frequency loss (unknown; A2MIM's).
        support: frequencies that count: "all", or the "removed_bands" alone (MFM).
    """

    kind: Literal["pixel"] = "pixel"
    spatial_mask: PatchMaskConfig = PatchMaskConfig()
    frequency_mask: BandStopConfig = BandStopConfig()
    spatial_weight: float = Field(default=1.0, ge=0)
    frequency_weight: float = Field(default=0.1, ge=0)
    focal: bool = True
    support: Literal["all", "removed_bands"] = "all"


@dataclass(frozen=True)
class ObjectiveOutput:
    """One forward pass.

    Attributes:
        loss: scalar to minimise.
        terms: detached scalars by name, for the log.
        per_sample: (B,) detached spatial loss of each image, for the loss by organ.
        corrupted: what the masks did.
        reconstruction: (B, 1, S, S) detached, grey values, about [0, 1].
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    per_sample: torch.Tensor
    corrupted: Corrupted
    reconstruction: torch.Tensor


class Objective(nn.Module):
    """What every row of `OBJECTIVES` is.

    Attributes:
        encoder: what is kept of the run; its parameters get the gradients.
        term_names: names of the loss terms, in a fixed order; `ObjectiveOutput.terms` has exactly these.
    """

    encoder: Encoder
    term_names: tuple[str, ...]

    def after_step(self, samples_seen: int, batch: int, total_samples: int) -> None:
        """Called after each optimizer step, for state that follows the weights (an EMA); nothing by default.

        Args:
            samples_seen: samples of the run up to and with this step.
            batch: samples of the step.
            total_samples: of the run.
        """


class PixelObjective(Objective):
    """Dual masked image modelling: one corrupted image, one reconstruction, a spatial and a frequency loss.

    Both losses compare with the clean image, in the encoder's normalised grey values (likely, as in SimMIM).
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
        config, scale = self.config, self.encoder.config
        if self.mask.bands.device != images.device:
            self.mask.bands = self.mask.bands.to(images.device)
        corrupted = self.mask(images, index)
        tokens = self.encoder(corrupted.images, corrupted.tokens)
        predicted = self.decoder(tokens[:, 1:]).float()  # normalised grey values
        target = (images - scale.mean) / scale.std
        hidden = upsample_mask(corrupted.tokens, scale.patch_px)
        support = None
        if config.support == "removed_bands":
            support = removed_spectrum(self.mask.bands, corrupted.bands)
        spatial = spatial_loss(predicted, target, hidden)
        frequency = frequency_loss(predicted, target, config.focal, support)
        loss = config.spatial_weight * spatial + config.frequency_weight * frequency
        with torch.no_grad():
            error = ((predicted - target).abs() * hidden[:, None]).sum(dim=(1, 2, 3))
            per_sample = error / hidden.sum(dim=(1, 2)).clamp(min=1)
        terms = {"spatial": spatial.detach(), "frequency": frequency.detach()}
        return ObjectiveOutput(loss, terms, per_sample, corrupted, (predicted * scale.std + scale.mean).detach())


OBJECTIVES: dict[str, Callable[[EncoderConfig, ObjectiveConfig, int], Objective]] = {"pixel": PixelObjective}
