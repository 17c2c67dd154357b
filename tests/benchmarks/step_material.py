"""What the step benchmark trains: configurations, canvases in memory, and the objects that a run would make."""

import itertools
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.models.pixel_objective import PixelObjective
from usfm.train.context import PlainContext
from usfm.train.optim import make_optimizer
from usfm.train.prefetch import MicroBatch
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan
from usfm.train.pretrain_step import PretrainStep

CANVAS_PX, POOL = 256, 4  # distinct batches of canvases
ORGANS = ("breast", "heart", "kidney")


class Canvases:
    """An endless stream of noise canvases, already decoded: what a loader that never lets one wait delivers."""

    rows_by_organ = dict.fromkeys(ORGANS, 1000)
    organ_shares = dict.fromkeys(ORGANS, 1 / len(ORGANS))
    fingerprint = "in memory"

    def __init__(self, batch: int, lanes: int) -> None:
        rng = np.random.default_rng(0)
        self.batch, self.lanes = batch, lanes
        height, width = rng.integers(180, CANVAS_PX + 1, (2, batch))
        self._pool = [
            {
                "image": torch.from_numpy(rng.integers(0, 256, (batch, CANVAS_PX, CANVAS_PX), np.uint8)),
                "height": torch.from_numpy(height),
                "width": torch.from_numpy(width),
                "organ": torch.from_numpy(rng.integers(0, len(ORGANS), batch)),
                "replaced": torch.zeros(batch, dtype=torch.int64),
            }
            for _ in range(POOL)
        ]

    def batches(self, start: int = 0) -> Iterator[MicroBatch]:
        """Micro-batches in the order of a single worker."""
        for step in itertools.count(start):
            for lane in range(self.lanes):
                index = torch.from_numpy(micro_batch_indices(step, lane, self.lanes, self.batch))
                yield {"index": index, **self._pool[(step * self.lanes + lane) % POOL]}

    def ids(self, index: npt.NDArray[np.int64]) -> list[str]:
        """Names of samples, for a refused step."""
        return [f"canvas {i}" for i in index]

    def paths(self, index: npt.NDArray[np.int64]) -> list[str]:
        """There are no shards."""
        return []


class Trained:
    """One configuration with everything that a run makes of it on a single worker."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.config, context = config, PlainContext(device)
        self.stream: Any = (
            ImageStream(config.data, config.seed)
            if config.data.shards
            else Canvases(config.batch.micro_size, config.batch.lanes(1))
        )
        torch.manual_seed(0)
        self.objective = PixelObjective(config.encoder, config.objective, config.seed).to(device).train()
        self.optimizer = make_optimizer(self.objective, config.optim)
        self.plan = PretrainPlan.derive(config, self.stream, 1)
        self.step = PretrainStep(config, self.plan, context, self.stream, self.objective, self.optimizer)
        self.batches = self._batches(context)
        self.taken = 0

    def _batches(self, context: PlainContext) -> Iterator[MicroBatch]:
        if isinstance(self.stream, Canvases):
            return self.stream.batches()
        from usfm.train.threaded_feed import threaded_feed

        return threaded_feed(self.stream, self.plan, self.config, context, threads=8)(0)

    def take(self) -> dict[str, Any]:
        """One optimizer step as the training loop takes it."""
        row = self.step.take(self.taken, self.batches)
        self.taken += 1
        return row


def configs(options: Any, device: torch.device) -> dict[str, PretrainConfig]:
    """The dual method, and SimMIM: the same without the band-stop and the frequency loss."""
    base: dict[str, Any] = {
        "run_dir": tempfile.mkdtemp(prefix="usfm-step-"),
        "data": {"shards": options.shards or "", "canvas_px": CANVAS_PX},
        "encoder": {"size": options.size, "img_px": options.img_px},
        "batch": {"global_size": options.batch * options.accumulate, "micro_size": options.batch},
        "epochs": 1,
        "epoch_samples": 10**8,
        "precision": options.precision,
        "speed": {
            "compile": options.compile, "recompute": options.recompute, "deterministic": options.deterministic,
        },
        "observe": {"every": 0},
    }  # fmt: skip
    spatial_only = {"objective": {"frequency_mask": {"ratio": 0}, "frequency_weight": 0}}
    return {"dual": PretrainConfig.build(base), "simmim": PretrainConfig.build(base | spatial_only)}
