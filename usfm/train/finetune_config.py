"""The settings of one fine-tuning run, and what it depends on beside them."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from usfm.config import Config
from usfm.data.augment import CropConfig
from usfm.data.degrade import DegradeConfig
from usfm.data.shards import ShardIndex
from usfm.data.task_config import TaskConfig
from usfm.errors import ConfigError
from usfm.losses.restoration import RestorationConfig
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.table import HeadConfig
from usfm.models.task_model import USFM
from usfm.models.windows import WindowConfig
from usfm.train.initial_weights import encoder_config_of, weights_hash
from usfm.train.optim import OptimConfig

__all__ = ["SCRATCH", "Balance", "FinetuneConfig"]

SCRATCH = "scratch"
Balance = Literal["none", "class_weights", "balanced_sampling"]


class FinetuneConfig(Config):
    """One fine-tuning run.

    Attributes:
        run_dir: folder of the run.
        shards: folder that `usfm ingest` wrote.
        task: rows and classes.
        network: "usfm" = the encoder with a head; or a baseline: "resnet50", "resnet18", "unet".
        init: "scratch", or what to start from: a pre-training run, a checkpoint, an exported encoder, or a weight
            file of a known layout (`usfm weights`). For usfm alone.
        pretrained: a baseline starts from ImageNet's weights.
        encoder: shape of the encoder; None = that of `init`, of which only the image side may differ. Needed for
            scratch. A baseline takes the image side from it.
        img_px: side of the network's input; None = that of the encoder.
        head: which head.
        fraction: share of the training patients whose labels are used.
        seed: of the fraction, the head's start and the batches.
        steps: optimizer steps, the same for every fraction.
        batch_size: images per step, over all workers.
        eval_every: steps between scores on the validation set; a killed run goes on from the last of them.
        views: "crops" = random crops and flips of the training images; "whole" = the whole images as they are.
        crop: ranges of the crops.
        flip_vertical: probability that a crop is turned upside down.
        rotate90: probability that a crop is turned by 90, 180 or 270 degrees.
        degrade_views: training images get worse as this seeded model says, their targets stay, so that the network
            stays right on images of other gains, contrasts and beams; None = they are shown as they are. For all
            kinds but enhancement, where the task itself degrades.
        optim: optimizer and schedule.
        layer_decay: rate of block k of n is scaled by layer_decay ** (n + 1 - k); the head has scale 1.
        balance: "class_weights" = the loss weighs rare classes more (classification, multilabel);
            "balanced_sampling" = every class (multilabel: combination of classes; else source) is drawn equally
            often.
        label_smoothing: for classification.
        restoration: loss of enhancement.
        inference: how whole images are shown to a network that answers for every pixel.
        freeze_encoder: train the head alone.
        precision: "bf16" = the forward passes of training run in bf16 autocast; weights, losses and scores are
            float32.
    """

    run_dir: str = "runs/finetune"
    shards: str = "runs/shards"
    task: TaskConfig
    network: str = USFM
    init: str = SCRATCH
    pretrained: bool = False
    encoder: EncoderConfig | None = None
    img_px: int | None = Field(default=None, ge=1)
    head: HeadConfig = HeadConfig()
    fraction: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=16, ge=1)
    eval_every: int = Field(default=20, ge=1)
    views: Literal["crops", "whole"] = "crops"
    crop: CropConfig = CropConfig()
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    rotate90: float = Field(default=0.0, ge=0, le=1)
    degrade_views: DegradeConfig | None = None
    optim: OptimConfig = OptimConfig(lr=1.25e-3)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    balance: Balance = "none"
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    restoration: RestorationConfig = RestorationConfig()
    inference: WindowConfig = WindowConfig()
    freeze_encoder: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.balance == "class_weights" and self.task.kind not in ("classification", "multilabel"):
            raise ValueError(f"balance=class_weights is for classes of images, this task is a {self.task.kind}")
        if self.inference.mode == "sliding" and self.task.kind not in ("segmentation", "enhancement"):
            raise ValueError(
                f"inference.mode=sliding is for answers at every pixel, this task is a {self.task.kind}"
            )
        if self.views == "whole" and (self.flip_vertical or self.rotate90):
            raise ValueError(
                "flip_vertical and rotate90 turn crops; with views=whole nothing is turned, leave them out"
            )
        if self.degrade_views is not None and self.task.kind == "enhancement":
            raise ValueError("degrade_views is not for enhancement: set task.degrade, which makes the pairs")
        if self.network != USFM and (self.init != SCRATCH or self.freeze_encoder):
            raise ValueError(
                f"network={self.network} has no encoder of ours: init has to be {SCRATCH} (pretrained=true takes "
                "ImageNet's weights) and freeze_encoder false"
            )
        return self

    def resolved_encoder(self) -> EncoderConfig | None:
        """The encoder to build; None for a baseline.

        Raises:
            ConfigError: scratch without `encoder`, or a shape that `init` does not have.
            CheckpointError: `init` is neither a run nor a bundle.
        """
        if self.network != USFM:
            return None
        if self.init == SCRATCH:
            if self.encoder is None:
                raise ConfigError(
                    "init=scratch needs the encoder to build, e.g. encoder.size=tiny encoder.img_px=96"
                )
            return self._sized(self.encoder)
        theirs = encoder_config_of(Path(self.init))
        ours = self.encoder or theirs
        grey = ours.channels == 1
        normal = ("mean", "std") if grey else ("channel_mean", "channel_std")
        for key in ("size", "patch_px", "positions", "final_norm", "channels", *normal):
            if getattr(ours, key) != getattr(theirs, key):
                raise ConfigError(
                    f"encoder.{key}={getattr(ours, key)} but {self.init} was trained with {getattr(theirs, key)}; "
                    "leave `encoder` out, or give the same value"
                )
        return self._sized(ours)

    def _sized(self, encoder: EncoderConfig) -> EncoderConfig:
        if self.img_px is None:
            return encoder
        return EncoderConfig.build({**encoder.model_dump(), "img_px": self.img_px})

    def resolved_px(self) -> int:
        """Side of the network's input.

        Raises:
            ConfigError: nothing says it, or as of `resolved_encoder`.
            CheckpointError: as there.
        """
        encoder = self.resolved_encoder() or self.encoder
        side = self.img_px or (encoder.img_px if encoder else None)
        if side is None:
            raise ConfigError(f"network={self.network} needs the side of its input, img_px")
        return side

    def inputs(self) -> dict[str, str]:
        """What the result depends on beside the config: fingerprint of the shards, hash of the first weights.

        Raises:
            ShardError: no shards there.
            CheckpointError: no whole checkpoint to start from.
        """
        first = SCRATCH if self.init == SCRATCH else weights_hash(Path(self.init))
        return {"shards": ShardIndex.load(self.shards).fingerprint, "init": first}
