"""What a pre-training objective is: its configuration, the result of one pass, and the base class."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from usfm.config import Config
from usfm.masking.dual import Corrupted
from usfm.masking.frequency import BandStopConfig
from usfm.masking.patches import PatchMaskConfig
from usfm.models.encoder import Encoder

__all__ = ["Objective", "ObjectiveConfig", "ObjectiveOutput", "TeacherConfig"]


class TeacherConfig(Config):
    """The teacher of the `teacher` objective. Ours, not the paper's; values after data2vec and I-JEPA.

    Attributes:
        momentum: of the average over `base_batch` samples at the start of the run; it rises to 1 linearly with the
            samples seen, so neither the number of workers nor the size of a batch changes it.
        base_batch: samples for which `momentum` is stated.
        blocks: how many of the last blocks' tokens are averaged to the target.
        beta: where the smooth L1 loss turns from square to absolute.
    """

    momentum: float = Field(default=0.996, ge=0, lt=1)
    base_batch: int = Field(default=1024, ge=1)
    blocks: int = Field(default=4, ge=1)
    beta: float = Field(default=1.0, gt=0)


class ObjectiveConfig(Config):
    """What is predicted from the corrupted image, and how the error counts.

    Attributes:
        kind: a key of `OBJECTIVES`: "pixel" is the paper (known: pixels are predicted), "teacher" predicts the
            latent tokens of an averaged encoder (ours).
        spatial_mask: the patch mask; ratio 0 = frequency-only, for ablation.
        frequency_mask: the band-stop; ratio 0 = spatial-only, for ablation.
        spatial_weight: weight of the spatial loss (likely 1); 0 leaves it out.
        frequency_weight: weight of the frequency loss (unknown; A2MIM's 0.1); 0 leaves it out, its term is then 0.
        focal: focal weighting of the frequency loss (unknown; A2MIM's).
        support: frequencies that count (unknown): "all", or the "removed_bands" alone (MFM).
        teacher: used by kind "teacher" alone, which in turn does not use the losses' weights, focal and support.
    """

    kind: Literal["pixel", "teacher"] = "pixel"
    spatial_mask: PatchMaskConfig = PatchMaskConfig()
    frequency_mask: BandStopConfig = BandStopConfig()
    spatial_weight: float = Field(default=1.0, ge=0)
    frequency_weight: float = Field(default=0.1, ge=0)
    focal: bool = True
    support: Literal["all", "removed_bands"] = "all"
    teacher: TeacherConfig = TeacherConfig()

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        hides, stops = self.spatial_mask.ratio > 0, self.frequency_mask.ratio > 0
        if not hides and not stops:
            raise ValueError(
                "both masks are off (spatial_mask.ratio and frequency_mask.ratio are 0): nothing to learn"
            )
        if self.kind == "pixel":
            if not (hides and self.spatial_weight) and not self.frequency_weight:
                raise ValueError(
                    "no loss is left: the spatial loss needs spatial_mask.ratio and spatial_weight above 0, the "
                    "frequency loss frequency_weight above 0"
                )
            if self.support == "removed_bands" and not stops:
                raise ValueError("support removed_bands needs frequency_mask.ratio above 0; use support all")
        return self


@dataclass(frozen=True)
class ObjectiveOutput:
    """One forward pass.

    Attributes:
        loss: scalar to minimise.
        terms: detached scalars by name, for the log.
        per_sample: (B,) detached loss of each image in the objective's main term, for the loss by organ.
        corrupted: what the masks did.
        reconstruction: (B, 1, S, S) detached, grey values, about [0, 1]; None where no image is predicted.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    per_sample: torch.Tensor
    corrupted: Corrupted
    reconstruction: torch.Tensor | None


class Objective(nn.Module):
    """What every row of `OBJECTIVES` is: a module from clean images and sample indices to an `ObjectiveOutput`.

    Attributes:
        encoder: what is kept of the run; its parameters get the gradients.
        term_names: names of the loss terms, in a fixed order; `ObjectiveOutput.terms` has exactly these.
    """

    encoder: Encoder
    term_names: tuple[str, ...]

    def after_step(self, samples_seen: int, batch: int, total_samples: int) -> None:
        """Called after each optimizer step, for state that follows the weights (an average); nothing by default.

        Args:
            samples_seen: samples of the run up to and with this step.
            batch: samples of the step.
            total_samples: of the run.
        """

    def encoder_loaded(self) -> None:
        """Called after `encoder` alone got other weights, for parts that begin as its copy; nothing by default."""
