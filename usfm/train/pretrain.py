"""The pre-training loop: dual masked image modelling on an organ-balanced stream, resumable to the sample.

The state of a run is one integer, the step: sample order, crops, masks, drop-path and rate are functions of it.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import nn

from usfm.data.augment import random_crops
from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.errors import NonFiniteLoss, ShardError
from usfm.models.objectives import OBJECTIVES
from usfm.rng import stream_key
from usfm.train.checkpoint import checkpoint_name, restore_checkpoint, save_checkpoint
from usfm.train.context import WorkerContext
from usfm.train.journal import Journal
from usfm.train.optim import learning_rate, make_optimizer, set_learning_rate
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

__all__ = ["REPLACED", "Feed", "MicroBatch", "local_feed", "pretrain"]

REPLACED = "replaced"
"""Folder of a run that lists samples whose shard was missing or damaged."""
MicroBatch = dict[str, torch.Tensor]
Feed = Callable[[int], Iterator[MicroBatch]]
"""From a first step to this worker's micro-batches, in order of (step, lane)."""


def local_feed(stream: ImageStream, plan: PretrainPlan, config: PretrainConfig, context: WorkerContext) -> Feed:
    """Micro-batches read in this process, without Ray Data."""

    def feed(start: int) -> Iterator[MicroBatch]:
        for step in range(start, plan.total_steps):
            for lane in range(context.rank, plan.lanes, context.world_size):
                index = micro_batch_indices(step, lane, plan.lanes, config.batch.micro_size)
                yield {name: torch.from_numpy(array) for name, array in stream.read(index).items()}

    return feed


def pretrain(
    config: PretrainConfig,
    context: WorkerContext,
    feed_of: Callable[[ImageStream, PretrainPlan], Feed],
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Run, or go on with, a pre-training run on this worker.

    Args:
        config: the run.
        context: this worker.
        feed_of: makes this worker's feed from stream and plan.
        stop_after: end after this many steps of the schedule, with a checkpoint (an interruption, for tests).

    Returns:
        The last row of metrics.

    Raises:
        NonFiniteLoss: a loss or gradient was NaN or infinite. The step was not taken; ids of the batch are in
            `nonfinite/` of the run's folder.
        ShardError: the feed delivered other samples than planned.
        CheckpointError: the checkpoint found is not one of this run.
    """
    stream = ImageStream(config.data, config.seed)
    plan = PretrainPlan.derive(config, stream, context.world_size)
    torch.manual_seed(stream_key(config.seed, "init"))
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed).to(context.device)
    optimizer = make_optimizer(objective, config.optim)
    identity = plan.identity(config)
    start = 0
    with context.restore() as folder:
        if folder is not None:
            start = int(restore_checkpoint(folder, objective, optimizer, identity)["step"])
    model = context.wrap(objective)
    worker = _Worker(config, plan, context, stream, model, optimizer)
    end = min(plan.total_steps, stop_after or plan.total_steps)
    batches = feed_of(stream, plan)(start)
    row: dict[str, Any] = {}
    with Journal(Path(config.run_dir), start, writes=context.rank == 0) as journal:
        for step in range(start, end):
            row = worker.step(step, batches)
            journal.write(step + 1, row)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == end:
                saved = None
                if context.rank == 0:
                    saved = Path(mkdtemp(prefix="usfm-checkpoint-"))
                    state = {"step": step + 1, "samples": row["samples"], **identity}
                    save_checkpoint(saved, objective, optimizer, state)
                context.report({"step": step + 1, **row}, saved, checkpoint_name(step + 1))
    return row


class _Worker:
    """The state of the loop on one worker."""

    def __init__(
        self,
        config: PretrainConfig,
        plan: PretrainPlan,
        context: WorkerContext,
        stream: ImageStream,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.config, self.plan, self.context, self.stream = config, plan, context, stream
        self.model, self.optimizer = model, optimizer
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and context.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )

    def step(self, step: int, batches: Iterator[MicroBatch]) -> dict[str, Any]:
        """One optimizer step; returns its row of metrics, the same on every worker but for times."""
        config, plan, device = self.config, self.plan, self.context.device
        began, waited = time.perf_counter(), 0.0
        seen = step * config.batch.global_size
        rate = learning_rate(config.optim, config.batch.global_size, seen, plan.total_samples)
        set_learning_rate(self.optimizer, rate)
        organs = len(plan.rows_by_organ)
        # loss, spatial, frequency, replaced samples, then count and loss by organ
        sums = torch.zeros(4 + 2 * organs, dtype=torch.float64, device=device)
        indices = []
        for lane in range(self.context.rank, plan.lanes, self.context.world_size):
            # drop-path draws from torch's generator: tie it to the samples, not to the worker or its history
            torch.manual_seed(stream_key(config.seed, "drop path", step, lane))
            waiting = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - waiting
            expected = micro_batch_indices(step, lane, plan.lanes, config.batch.micro_size)
            if not np.array_equal(batch["index"].numpy(), expected):
                raise ShardError(
                    f"the stream is out of order at step {step}, lane {lane}: wanted samples from "
                    f"{expected[0]}, got {batch['index'][:4].tolist()}..."
                )
            indices.append(expected)
            if batch["replaced"].any():
                self._note_replaced(step, expected[batch["replaced"].numpy() > 0])
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            last = lane + self.context.world_size >= plan.lanes
            sums += self._forward_backward(batch, sync=last)
        sums = self.context.sum(sums)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.optim.clip_norm or math.inf)
        if not torch.isfinite(sums[0]) or not torch.isfinite(norm):
            self._refuse(step, np.concatenate(indices), float(sums[0]), float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        values = sums.tolist()
        loss, spatial, frequency = (v / plan.lanes for v in values[:3])
        counts, errors = values[4 : 4 + organs], values[4 + organs :]
        names = list(plan.rows_by_organ)
        took = time.perf_counter() - began
        return {
            "samples": seen + config.batch.global_size,
            "epoch": (seen + config.batch.global_size) / plan.epoch_samples,
            "loss": loss, "spatial": spatial, "frequency": frequency,
            "replaced": int(values[3]), "lr": rate, "grad_norm": float(norm),
            "images_per_s": config.batch.global_size / took,
            "data_wait": waited / took,
            "organ_count": {o: int(c) for o, c in zip(names, counts, strict=True)},
            "organ_loss": {o: e / c for o, c, e in zip(names, counts, errors, strict=True) if c},
        }  # fmt: skip

    def _forward_backward(self, batch: MicroBatch, sync: bool) -> torch.Tensor:
        """Accumulate gradients of one micro-batch; returns loss terms, organ counts and organ loss sums."""
        config, organs = self.config, len(self.plan.rows_by_organ)
        images = random_crops(batch, config.encoder.img_px, config.crop, config.seed)
        no_sync = getattr(self.model, "no_sync", None)
        if sync or no_sync is None:
            out = self._backward(images, batch["index"])
        else:
            with no_sync():
                out = self._backward(images, batch["index"])
        counts = torch.bincount(batch["organ"], minlength=organs).double()
        errors = torch.bincount(batch["organ"], weights=out.per_sample.double(), minlength=organs)
        head = torch.stack([out.loss.detach(), out.terms["spatial"], out.terms["frequency"]]).double()
        return torch.cat([head, batch["replaced"].sum().double()[None], counts, errors])

    def _backward(self, images: torch.Tensor, index: torch.Tensor) -> Any:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.model(images, index)
        # the average over this worker's lanes; DDP averages over workers
        (out.loss / self.plan.accumulation).backward()
        return out

    def _note_replaced(self, step: int, index: np.ndarray[Any, Any]) -> None:
        """Say in the run's folder which samples had to be replaced, and where they should have been."""
        folder = Path(self.config.run_dir) / REPLACED
        folder.mkdir(parents=True, exist_ok=True)
        record = {"step": step, "index": index.tolist(), "shards": self.stream.paths(index)}
        with (folder / f"rank-{self.context.rank}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _refuse(self, step: int, index: np.ndarray[Any, Any], loss: float, norm: float) -> None:
        folder = Path(self.config.run_dir) / "nonfinite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{step:08d}-rank-{self.context.rank}.json"
        ids = self.stream.ids(index)
        record = {"step": step, "loss": str(loss), "grad_norm": str(norm), "index": index.tolist(), "ids": ids}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        raise NonFiniteLoss(
            f"step {step}: loss {loss}, gradient norm {norm}; the step was not taken. The batch's "
            f"sample ids are in {path}"
        )
