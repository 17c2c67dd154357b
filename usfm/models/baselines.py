"""Networks that everyone has, to be beaten at the same budget: timm's ResNets and MONAI's U-Net."""

from typing import Literal

import torch
from timm import create_model
from torch import nn

from usfm.errors import ConfigError, EnvironmentProblem
from usfm.kinds import TaskKind
from usfm.models.heads.regression import TargetScale
from usfm.models.network import TaskNetwork

__all__ = ["BASELINES", "BaselineName", "BaselineModel"]

BaselineName = Literal["resnet50", "resnet18", "unet"]
RESNETS: tuple[TaskKind, ...] = ("classification", "multilabel", "regression")
UNETS: tuple[TaskKind, ...] = ("segmentation", "enhancement")
BASELINES: dict[BaselineName, tuple[TaskKind, ...]] = {"resnet50": RESNETS, "resnet18": RESNETS, "unet": UNETS}
MEAN, STD = 0.449, 0.226  # ImageNet's, averaged over the colours, as the encoder's default
SMALLEST_PX = 32  # both halve an image four or five times


class BaselineModel(TaskNetwork):
    """A ResNet for classes, labels and numbers, a U-Net for masks and images, in the shape of `TaskModel`.

    The U-Net's enhanced image is its input plus what it answers, as that of the restoration head.

    Source: He et al. (arXiv 1512.03385), as timm has it; Ronneberger et al. (arXiv 1505.04597) with instance norm,
    as MONAI's `BasicUNet` has it.
    """

    def __init__(
        self, network: BaselineName, kind: TaskKind, outputs: int, img_px: int, pretrained: bool = False
    ) -> None:
        """Build.

        Args:
            network: its name.
            kind: of the task.
            outputs: see `usfm.kinds.output_count`.
            img_px: side of its square input.
            pretrained: start from timm's ImageNet weights instead of random ones, the colours' kernels summed.

        Raises:
            ConfigError: the network does not fit the kind, the side is too small, or it has no such weights.
            EnvironmentProblem: the weights cannot be had.
        """
        super().__init__(kind, img_px)
        if kind not in BASELINES[network]:
            fit = [name for name, kinds in BASELINES.items() if kind in kinds]
            raise ConfigError(f"network={network} does not fit a {kind} task; expected usfm or {' or '.join(fit)}")
        if img_px < SMALLEST_PX:
            raise ConfigError(f"network={network} needs images of at least {SMALLEST_PX} px, got img_px={img_px}")
        self.scale = TargetScale() if kind == "regression" else None
        self.body: nn.Module
        if network == "unet":
            if pretrained:
                raise ConfigError("network=unet has no pre-trained weights; set pretrained=false")
            from monai.networks.nets import BasicUNet  # a second of import, needed here alone

            self.body = BasicUNet(spatial_dims=2, in_channels=1, out_channels=outputs)
        else:
            self.body = _resnet(network, outputs, pretrained)

    def forward(
        self, images: torch.Tensor, auxiliary: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """See `TaskNetwork.forward`."""
        answer: torch.Tensor = self.body((images - MEAN) / STD)
        if self.scale is not None:
            answer = self.scale(answer)
        if self.kind == "enhancement":
            answer = images + answer
            answer = answer if self.training else answer.clamp(0, 1)
        return (answer, []) if auxiliary else answer

    def fit_targets(self, mean: float, std: float) -> None:
        """See `TaskNetwork.fit_targets`."""
        if self.scale is None:
            raise TypeError(f"a {self.kind} network predicts no values; only regression is fitted to targets")
        self.scale.fit(mean, std)


def _resnet(network: str, outputs: int, pretrained: bool) -> nn.Module:
    try:
        model: nn.Module = create_model(network, pretrained=pretrained, in_chans=1, num_classes=outputs)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise EnvironmentProblem(
            f"timm's ImageNet weights of {network} cannot be had ({error}); set pretrained=false, or download them "
            "once where there is a network and set HF_HOME to that folder"
        ) from None
    return model
