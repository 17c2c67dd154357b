"""A step whose loss or gradient is not finite is refused, and kept so that `usfm replay RUN` can take it apart.

nonfinite/step-00000003/
  model.safetensors        the weights before the step (they are also those after it)
  rank-0.json              step, loss, gradient norm, sample indices and ids, generator seed of each micro-batch
  rank-0.safetensors       the batches as the feed delivered them, one tensor per name and lane
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from usfm.data.stream import ImageStream
from usfm.errors import NonFiniteLoss
from usfm.rng import stream_key
from usfm.train.checkpoint import MODEL, gather_weights
from usfm.train.context import WorkerContext
from usfm.train.durable import write_text
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["REFUSED", "Refusals", "lane_seed", "refused_folder"]

REFUSED = "nonfinite"
MAX_IN_A_ROW = 10
KEPT_WEIGHTS = 3  # refused steps whose weights stay; of earlier ones batches and records do
log = logging.getLogger(__name__)


def lane_seed(seed: int, step: int, lane: int) -> int:
    """Seed of torch's generator for one micro-batch: drop-path is tied to the samples, not to worker or history."""
    return stream_key(seed, "drop path", step, lane)


def refused_folder(run_dir: Path, step: int) -> Path:
    """Where a refused step is kept; `step` counts from 0, as the loop does."""
    return run_dir / REFUSED / f"step-{step:08d}"


class Refusals:
    """Keeps refused steps and decides whether the run goes on."""

    def __init__(
        self, config: PretrainConfig, context: WorkerContext, stream: ImageStream, objective: nn.Module
    ) -> None:
        self.config, self.context, self.stream, self.objective = config, context, stream, objective
        self.in_a_row = 0

    def refuse(
        self, step: int, lanes: Sequence[int], batches: Sequence[dict[str, torch.Tensor]], loss: float, norm: float
    ) -> None:
        """Keep the step; every worker calls it, with its own lanes.

        Raises:
            NonFiniteLoss: `nonfinite` is "stop", or the last steps were all refused.
        """
        folder = refused_folder(Path(self.config.run_dir), step)
        weights = gather_weights(self.objective)  # on every worker: it may gather
        try:
            self._keep(folder, step, lanes, batches, (loss, norm), weights)
        except (OSError, SafetensorError) as error:  # a full disk must not turn a step that is skipped into an end
            log.warning("step %d was refused and could not be kept in %s: %s", step, folder, error)
        self.in_a_row += 1
        what = f"step {step}: loss {loss}, gradient norm {norm}; the step was not taken"
        where = (
            f"The batch's sample ids and tensors are in {folder}; `usfm replay {self.config.run_dir}` repeats it"
        )
        if self.config.nonfinite == "stop":
            raise NonFiniteLoss(f"{what}. {where}")
        if self.in_a_row >= MAX_IN_A_ROW:
            raise NonFiniteLoss(f"{what}, nor were the {MAX_IN_A_ROW - 1} before it. {where}")

    def _keep(
        self, folder: Path, step: int, lanes: Sequence[int], batches: Sequence[dict[str, torch.Tensor]],
        seen: tuple[float, float], weights: dict[str, torch.Tensor],
    ) -> None:  # fmt: skip
        """Write this worker's part; the first worker also the weights, and drops those of long ago."""
        folder.parent.mkdir(exist_ok=True)  # not the run's folder: if that is missing, its storage is away
        folder.mkdir(exist_ok=True)
        if self.context.rank == 0:
            save_file(weights, folder / MODEL)
            for old in sorted(folder.parent.glob(f"step-*/{MODEL}"))[:-KEPT_WEIGHTS]:
                old.unlink(missing_ok=True)
        name = f"rank-{self.context.rank}"
        tensors = {
            f"{lane}.{key}": tensor.contiguous()
            for lane, batch in zip(lanes, batches, strict=True)
            for key, tensor in batch.items()
        }
        save_file(tensors, folder / f"{name}.safetensors")
        index = torch.cat([batch["index"] for batch in batches]).numpy()
        record = {
            "step": step, "loss": str(seen[0]), "grad_norm": str(seen[1]),
            "rank": self.context.rank, "world_size": self.context.world_size,
            "lanes": {str(lane): {"generator_seed": lane_seed(self.config.seed, step, lane)} for lane in lanes},
            "index": index.tolist(), "ids": self.stream.ids(index),
        }  # fmt: skip
        write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
