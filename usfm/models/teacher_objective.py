"""Latent targets: from the dual-masked image, predict the tokens that an averaged encoder makes of the clean one.

Not the paper's. Ideas: data2vec (Baevski et al., ICML 2022: normalised mean of the last blocks as target, smooth
L1), I-JEPA (Assran et al., CVPR 2023: momentum that rises to 1), BYOL's predictor against collapse; written anew.
US-JEPA and EchoJEPA report that latent targets are stronger than pixels on ultrasound.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from usfm.masking.dual import DualMask
from usfm.models.encoder import SIZES, Encoder, EncoderConfig
from usfm.models.objective import Objective, ObjectiveConfig, ObjectiveOutput

__all__ = ["TeacherObjective", "teacher_momentum"]


def teacher_momentum(momentum: float, base_batch: int, samples_seen: int, batch: int, total_samples: int) -> float:
    """Weight of the old average in one step: (m + (1 - m) seen / total) ** (batch / base_batch).

    Two steps of half the batch average as far as one step of the whole (but for the ramp inside the step).
    """
    ramped = momentum + (1 - momentum) * min(1.0, samples_seen / total_samples)
    return float(ramped ** (batch / base_batch))


class TeacherObjective(Objective):
    """A student sees the corrupted image, a teacher the clean one; the student predicts the teacher's tokens.

    Where patches are hidden, hidden tokens alone count; with the band-stop alone, all patch tokens.
    """

    term_names = ("latent",)

    def __init__(self, encoder: EncoderConfig, objective: ObjectiveConfig, seed: int) -> None:
        """Build; the teacher starts as a copy of the student.

        Raises:
            ValueError: more blocks are averaged than the encoder has.
        """
        super().__init__()
        self.config = objective
        self.encoder = Encoder(encoder)
        depth, width = SIZES[encoder.size][1], encoder.width
        if objective.teacher.blocks > depth:
            raise ValueError(f"teacher.blocks {objective.teacher.blocks}: the encoder has {depth}")
        self.target_blocks = list(range(depth - objective.teacher.blocks + 1, depth + 1))
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)
        self.teacher.mask_token = None
        self.predictor = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.mask = DualMask(
            encoder.img_px, encoder.patch_px, objective.spatial_mask, objective.frequency_mask, seed
        )

    def train(self, mode: bool = True) -> "TeacherObjective":
        """As usual, but the teacher never drops paths."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> ObjectiveOutput:
        """One pass over clean images (B, 1, S, S) float32 in [0, 1] with (B,) int64 sample indices."""
        corrupted = self.mask(images, index)
        target = self.targets(images)
        predicted = self.predictor(self.encoder(corrupted.images, corrupted.tokens)[:, 1:]).float()
        error = F.smooth_l1_loss(predicted, target, reduction="none", beta=self.config.teacher.beta).mean(dim=2)
        counted = corrupted.tokens.flatten(1).float()  # (B, N), 1 = counts
        if self.config.spatial_mask.ratio == 0:
            counted = torch.ones_like(counted)
        error = error * counted
        loss = error.sum() / counted.sum()
        per_sample = (error.sum(dim=1) / counted.sum(dim=1)).detach()
        return ObjectiveOutput(loss, {"latent": loss.detach()}, per_sample, corrupted, None)

    @torch.no_grad()
    def targets(self, images: torch.Tensor) -> torch.Tensor:
        """The teacher's patch tokens of clean images: (B, N, D) float32, each block normalised, then averaged."""
        taken, _ = self.teacher.intermediates(images, self.target_blocks)
        layers = [F.layer_norm(tokens[:, 1:].float(), tokens.shape[-1:]) for tokens in taken]
        return torch.stack(layers).mean(dim=0)

    @torch.no_grad()
    def after_step(self, samples_seen: int, batch: int, total_samples: int) -> None:
        """Move the teacher towards the student."""
        config = self.config.teacher
        keep = teacher_momentum(config.momentum, config.base_batch, samples_seen, batch, total_samples)
        students = dict(self.encoder.named_parameters())
        for name, average in self.teacher.named_parameters():
            average.lerp_(students[name].to(average.dtype), 1 - keep)

    @torch.no_grad()
    def encoder_loaded(self) -> None:
        """The teacher begins as a copy of the student."""
        students = dict(self.encoder.named_parameters())
        for name, average in self.teacher.named_parameters():
            average.copy_(students[name])
