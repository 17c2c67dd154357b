"""The configuration of a pre-training run, and what follows from it: steps, lanes, rate, masks, shares."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from pydantic import Field

from usfm.config import Config
from usfm.data.augment import CropConfig
from usfm.data.stream import ImageStream, StreamConfig
from usfm.errors import ConfigError
from usfm.masking.patches import hidden_units
from usfm.models.encoder import EncoderConfig
from usfm.models.objective import ObjectiveConfig
from usfm.train.observe.config import ObserveConfig
from usfm.train.optim import OptimConfig
from usfm.train.parallel import SpeedConfig
from usfm.train.start import StartConfig
from usfm.train.trackers import TrackerName, require_trackers

__all__ = ["BatchConfig", "PretrainConfig", "PretrainPlan", "needs_even_lanes", "uses_bf16", "without_data"]


class BatchConfig(Config):
    """Batch sizes.

    Attributes:
        global_size: images per optimizer step, over all workers.
        micro_size: images per forward pass. A global batch is global_size / micro_size lanes; each worker
            computes the same number of lanes, one after the other.
    """

    global_size: int = Field(default=512, ge=1)
    micro_size: int = Field(default=64, ge=1)

    def lanes(self, world_size: int, even: bool = True) -> int:
        """Micro-batches per global batch.

        Args:
            world_size: workers.
            even: every worker must get the same number; False for a run whose number of workers may change, where
                a worker that has one micro-batch less waits for the others at the end of a step.

        Raises:
            ConfigError: `even`, unless workers x micro-batch x accumulation equals the global batch; else, unless
                every worker gets a micro-batch.
        """
        lanes, rest = divmod(self.global_size, self.micro_size)
        if not even and not rest and lanes < world_size:
            raise ConfigError(
                f"batch.global_size {self.global_size} is {lanes} micro-batches of {self.micro_size}: too few for "
                f"{world_size} workers; lower batch.micro_size or the number of workers"
            )
        if rest or (even and lanes % world_size):
            raise ConfigError(
                f"batch.global_size {self.global_size} is not workers ({world_size}) x batch.micro_size "
                f"({self.micro_size}) x a whole number of accumulation steps"
            )
        return lanes


class PretrainConfig(Config):
    """A pre-training run.

    Attributes:
        run_dir: folder of the run; an interrupted run goes on when it is started again.
        seed: of everything that is drawn.
        start: what a new run continues from; None = from random weights.
        data: the stream.
        crop: training views.
        encoder: network.
        objective: masks and losses.
        optim: optimizer and schedule.
        batch: sizes.
        epochs: length of the run.
        epoch_samples: images per epoch; None = as many as the split has rows.
        speed: how a step is spread over workers and memory.
        precision: "auto" = bf16 autocast where the device has it, else float32.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        keep_checkpoints: how many are kept.
        nonfinite: what follows a refused step (NaN or infinite loss or gradient): "stop", or "skip" and go on with
            the next one, until ten in a row are refused. Either way the step is kept for `usfm replay`.
        observe: what is looked at while the run trains; changes nothing of it.
        tracker: "mlflow", "wandb", a list of them, or "none"; JSONL and TensorBoard are always written.
    """

    run_dir: str = "runs/pretrain"
    seed: int = 0
    start: StartConfig | None = None
    data: StreamConfig = StreamConfig()
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    batch: BatchConfig = BatchConfig()
    epochs: int = Field(default=100, ge=1)
    epoch_samples: int | None = Field(default=None, ge=1)
    speed: SpeedConfig = SpeedConfig()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    nonfinite: Literal["stop", "skip"] = "stop"
    observe: ObserveConfig = ObserveConfig()
    tracker: TrackerName | list[TrackerName] = "none"


@dataclass(frozen=True)
class PretrainPlan:
    """What follows from a config and a set of shards; written to plan.json."""

    rows_by_organ: dict[str, int]
    organ_shares: dict[str, float]
    epoch_samples: int
    steps_per_epoch: int
    total_steps: int
    total_samples: int
    lanes: int
    accumulation: int
    peak_lr: float
    hidden_tokens: int
    tokens: int
    band_radii: list[int]
    bands_removed: int
    shards_fingerprint: str

    @classmethod
    def derive(
        cls, config: PretrainConfig, stream: ImageStream, world_size: int, even: bool = True
    ) -> "PretrainPlan":
        """Derive and check everything before anything starts; `even` as in `BatchConfig.lanes`.

        Raises:
            ConfigError: sizes do not fit together.
        """
        rows = stream.rows_by_organ
        batch = config.batch.global_size
        steps = math.ceil((config.epoch_samples or sum(rows.values())) / batch)
        return cls(
            rows_by_organ=rows,
            organ_shares=stream.organ_shares,
            epoch_samples=steps * batch,
            steps_per_epoch=steps,
            total_steps=steps * config.epochs,
            total_samples=steps * config.epochs * batch,
            shards_fingerprint=stream.fingerprint,
            **without_data(config, world_size, even),
        )

    def identity(self, config: PretrainConfig) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it: all that decides the stream's rows."""
        sampling = config.data.model_dump(mode="json", include={"split", "sampling"})
        return {
            "seed": config.seed,
            "batch": config.batch.global_size,
            "shards": self.shards_fingerprint,
            "sampling": sampling,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def needs_even_lanes(config: PretrainConfig) -> bool:
    """Whether every worker must compute equally many micro-batches: shards are gathered in each of them."""
    return config.speed.parallel == "fsdp"


def uses_bf16(config: PretrainConfig, device: torch.device) -> bool:
    """Whether forward passes run in bf16 autocast on this device."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.precision == "bf16"


def without_data(config: PretrainConfig, world_size: int, even: bool = True) -> dict[str, Any]:
    """The part of a plan that needs no shards: sizes, rate and masks.

    Raises:
        ConfigError: sizes do not fit together, or a tracker's package is missing.
    """
    require_trackers(config.tracker)
    encoder, objective = config.encoder, config.objective
    lanes = config.batch.lanes(world_size, even)
    units, hidden = hidden_units(encoder.img_px, encoder.patch_px, objective.spatial_mask)
    per_unit = (objective.spatial_mask.unit_px // encoder.patch_px) ** 2
    return {
        "lanes": lanes,
        "accumulation": math.ceil(lanes / world_size),
        "peak_lr": config.optim.peak_lr(config.batch.global_size),
        "hidden_tokens": hidden * per_unit,
        "tokens": units * units * per_unit,
        "band_radii": objective.frequency_mask.radii(encoder.img_px),
        "bands_removed": objective.frequency_mask.removed(encoder.img_px),
    }
