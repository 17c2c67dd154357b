"""The encoder with a head on it, and the one place that builds a task's network by name."""

import torch

from usfm.errors import ConfigError
from usfm.kinds import TaskKind
from usfm.models.baselines import BASELINES, BaselineModel
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.heads.table import HeadConfig, make_head
from usfm.models.network import TaskNetwork

__all__ = ["USFM", "TaskModel", "build_model"]

USFM = "usfm"  # beside the names of `BASELINES`


class TaskModel(TaskNetwork):
    """Encoder and head."""

    def __init__(
        self, encoder: EncoderConfig, kind: TaskKind, outputs: int, head: HeadConfig | None = None
    ) -> None:
        """Build with random weights.

        Args:
            encoder: shape of the encoder; its mask token is left out, since nothing is hidden downstream.
            kind: of the task.
            outputs: see `usfm.kinds.output_count`.
            head: which head; None = the default of the kind.

        Raises:
            ConfigError: this kind has no such head.
        """
        super().__init__(kind, encoder.img_px)
        self.encoder = Encoder(encoder)
        self.encoder.mask_token = None
        self.head = make_head(head or HeadConfig(), encoder, kind, outputs)

    def forward(
        self, images: torch.Tensor, auxiliary: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """See `TaskNetwork.forward`."""
        return self.from_features(*self.features(images), images, auxiliary)

    def features(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What the head takes: tokens (B, 1 + N, D) after each of `head.blocks`, and after the final norm."""
        return self.encoder.intermediates(images, self.head.blocks)

    def from_features(
        self, taken: list[torch.Tensor], normed: torch.Tensor, images: torch.Tensor, auxiliary: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """The head alone; `forward(images)` is `from_features(*features(images), images)`."""
        if auxiliary:
            return self.head.training_forward(taken, normed, images)
        answer: torch.Tensor = self.head(taken, normed, images)
        return answer

    def auxiliary_loss(self, aux: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """See `TaskNetwork.auxiliary_loss`."""
        return self.head.auxiliary_loss(aux, target)

    def fit_targets(self, mean: float, std: float) -> None:
        """See `TaskNetwork.fit_targets`."""
        self.head.fit_targets(mean, std)


def build_model(
    network: str,
    encoder: EncoderConfig | None,
    kind: TaskKind,
    outputs: int,
    head: HeadConfig | None = None,
    img_px: int | None = None,
    pretrained: bool = False,
) -> TaskNetwork:
    """A task's network by name, with random weights, or a baseline with those of ImageNet.

    Args:
        network: "usfm" (an encoder with a head), "resnet50", "resnet18" or "unet".
        encoder: shape of the encoder; for usfm alone.
        kind: of the task.
        outputs: see `usfm.kinds.output_count`.
        head: of usfm; None = the default of the kind.
        img_px: side of a baseline's input; None = that of `encoder`, which usfm always has.
        pretrained: a baseline starts from timm's ImageNet weights.

    Raises:
        ConfigError: no such network, or it does not fit the kind, or what it needs is missing.
        EnvironmentProblem: the ImageNet weights cannot be had.
    """
    if network == USFM:
        if encoder is None:
            raise ConfigError("network=usfm needs the shape of its encoder, e.g. encoder.size=tiny")
        if img_px not in (None, encoder.img_px):
            raise ConfigError(f"img_px={img_px}, but the encoder takes {encoder.img_px} px; set encoder.img_px")
        if pretrained:
            raise ConfigError("pretrained=true is for baselines; the encoder's start is `init`")
        return TaskModel(encoder, kind, outputs, head)
    side = encoder.img_px if img_px is None and encoder is not None else img_px
    for name in BASELINES:
        if name == network:
            if side is None:
                raise ConfigError(f"network={network} needs the side of its input, img_px")
            return BaselineModel(name, kind, outputs, side, pretrained)
    raise ConfigError(f"network={network} is not known; expected one of {', '.join([USFM, *BASELINES])}")
