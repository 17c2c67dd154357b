"""One optimizer step of pre-training on one worker: views, masks, forward, backward, refusal, update.

A step is a function of (weights, optimizer state, step number, batches): whatever is drawn is tied to the samples.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from usfm.data.augment import random_crops
from usfm.data.sample_digest import DIGEST_BITS, batch_digest
from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.errors import ShardError
from usfm.models.objective import Objective, ObjectiveOutput
from usfm.train.context import WorkerContext
from usfm.train.determined import determined
from usfm.train.optim import learning_rate, set_learning_rate
from usfm.train.parallel import accumulating, gathered, prepare, spread
from usfm.train.prefetch import MicroBatch, Prefetch
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan, uses_bf16
from usfm.train.refused import Refusals, lane_seed
from usfm.train.replaced import replaced_rows

__all__ = ["MicroBatch", "PretrainStep"]


def _nobody(step: int) -> None:
    """Nobody looks at gradients."""


class PretrainStep:
    """Takes optimizer steps; built once per start of a worker."""

    def __init__(
        self,
        config: PretrainConfig,
        plan: PretrainPlan,
        context: WorkerContext,
        stream: ImageStream,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        start: int = 0,
    ) -> None:
        """Spread the objective over workers.

        Args:
            config: the run.
            plan: what follows from it.
            context: this worker.
            stream: for reports to a person: ids and shards of samples.
            objective: unwrapped, with its weights loaded.
            optimizer: over its parameters, with its state loaded.
            start: first step that is going to be taken, 0-based.
        """
        self.config, self.plan, self.context, self.stream = config, plan, context, stream
        self.objective, self.optimizer = objective, optimizer
        prepare(objective, config.speed)
        self.model: nn.Module = spread(objective, optimizer, config.speed, context)
        self.prefetch = Prefetch(context.device)
        self.replaced = replaced_rows(Path(config.run_dir), context.rank, context.world_size, start)
        self.watch: Callable[[int], None] = _nobody
        self.refusals = Refusals(config, context, stream, objective)
        self.bf16 = uses_bf16(config, context.device)

    def take(self, step: int, batches: Iterator[MicroBatch]) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics, the same on every worker but for times.

        Raises:
            NonFiniteLoss: loss or gradient is not finite; the step was not taken (see `Refusals`).
            ShardError: the feed delivered other samples than planned.
            ConfigError: `speed.deterministic` asks for what torch does not have.
        """
        with determined(self.config.speed.deterministic, self.context.device):
            return self._taken(step, batches)

    def _taken(self, step: int, batches: Iterator[MicroBatch]) -> dict[str, Any]:
        config, plan = self.config, self.plan
        began, waited = time.perf_counter(), self.prefetch.waited_s
        seen = step * config.batch.global_size
        rate = learning_rate(config.optim, config.batch.global_size, seen, plan.total_samples)
        set_learning_rate(self.optimizer, rate)
        terms, organs = self.objective.term_names, list(plan.rows_by_organ)
        # loss, replaced samples, digest of the samples, terms of the loss, then count and loss by organ
        sums = torch.zeros(3 + len(terms) + 2 * len(organs), dtype=torch.float64, device=self.context.device)
        taken: list[MicroBatch] = []
        lanes = range(self.context.rank, plan.lanes, self.context.world_size)
        for lane in lanes:
            batch, on_device = self.prefetch.take(batches)
            taken.append(self._checked(step, lane, batch))
            torch.manual_seed(lane_seed(config.seed, step, lane))
            sums += self._forward_backward(on_device, sync=lane == lanes[-1])
            self.prefetch.look_ahead(batches)
        sums = self.context.sum(sums)
        self.watch(step + 1)
        clipped = nn.utils.clip_grad_norm_(self.objective.parameters(), config.optim.clip_norm or math.inf)
        # the one place where this process waits for the device
        *values, norm = torch.cat([sums, gathered(clipped).double()[None]]).tolist()
        refused = not (math.isfinite(values[0]) and math.isfinite(norm))
        if refused:
            self.refusals.refuse(step, lanes, taken, values[0] / plan.lanes, norm)
        else:
            self.optimizer.step()
            self.objective.after_step(seen + config.batch.global_size, config.batch.global_size, plan.total_samples)
            self.refusals.in_a_row = 0
        self.optimizer.zero_grad(set_to_none=True)
        counts, errors = values[-2 * len(organs) : -len(organs)], values[-len(organs) :]
        took = time.perf_counter() - began
        return {
            "samples": seen + config.batch.global_size,
            "epoch": (seen + config.batch.global_size) / plan.epoch_samples,
            "loss": values[0] / plan.lanes,
            **{name: value / plan.lanes for name, value in zip(terms, values[3:], strict=False)},
            "sample_digest": int(values[2]) % (1 << DIGEST_BITS), "replaced": int(values[1]),
            "refused": int(refused), "lr": rate, "grad_norm": norm,
            "images_per_s": config.batch.global_size / took,
            "data_wait": (self.prefetch.waited_s - waited) / took,
            "organ_count": {o: int(c) for o, c in zip(organs, counts, strict=True)},
            "organ_loss": {o: e / c for o, c, e in zip(organs, counts, errors, strict=True) if c},
        }  # fmt: skip

    def _checked(self, step: int, lane: int, batch: MicroBatch) -> MicroBatch:
        """The batch, if it holds the samples that this lane is planned to have."""
        expected = micro_batch_indices(step, lane, self.plan.lanes, self.config.batch.micro_size)
        if not np.array_equal(batch["index"].numpy(), expected):
            raise ShardError(
                f"the stream is out of order at step {step}, lane {lane}: wanted samples from "
                f"{expected[0]}, got {batch['index'][:4].tolist()}..."
            )
        if batch["replaced"].any():
            self._note_replaced(step, expected[batch["replaced"].numpy() > 0])
        return batch

    def _forward_backward(self, batch: MicroBatch, sync: bool) -> torch.Tensor:
        """Accumulate gradients of one micro-batch; returns loss terms, organ counts and organ loss sums."""
        config, organs = self.config, len(self.plan.rows_by_organ)
        images = random_crops(batch, config.encoder.img_px, config.crop, config.seed)
        with accumulating(self.model, sync):
            out = self._backward(images, batch["index"])
        # bincount would wait for the device
        belongs = batch["organ"][:, None] == torch.arange(organs, device=images.device)  # (B, organs)
        counts = belongs.double().sum(dim=0)
        # not a product: the NaN of one image would reach every organ
        errors = torch.where(belongs, out.per_sample.double()[:, None], 0.0).sum(dim=0)
        terms = [out.terms[name] for name in self.objective.term_names]
        scalars = (out.loss.detach(), batch["replaced"].sum(), batch_digest(batch), *terms)
        head = torch.stack([scalar.double() for scalar in scalars])
        return torch.cat([head, counts, errors])

    def _backward(self, images: torch.Tensor, index: torch.Tensor) -> ObjectiveOutput:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            out: ObjectiveOutput = self.model(images, index)
        # the mean over all lanes of the step, also where workers have different numbers of them: gradients add up
        # over this worker's lanes, and the wrapper averages over workers
        (out.loss * (self.context.world_size / self.plan.lanes)).backward()  # type: ignore[no-untyped-call]
        return out

    def _note_replaced(self, step: int, index: npt.NDArray[np.int64]) -> None:
        """Say in the run's folder which samples had to be replaced, and where they should have been."""
        self.replaced.append({"step": step, "index": index.tolist(), "shards": self.stream.paths(index)})
