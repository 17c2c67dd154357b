"""The pre-training loop: dual masked image modelling on an organ-balanced stream, resumable to the sample.

The state of a run is one integer, the step: sample order, crops, masks, drop-path and rate are functions of it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from usfm.data.patience import patiently
from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.models.objectives import OBJECTIVES
from usfm.rng import stream_key
from usfm.train.checkpoint import STATE, checkpoint_folder, latest_checkpoint, read_state
from usfm.train.checkpoint_writer import CheckpointWriter
from usfm.train.context import WorkerContext
from usfm.train.journal import Journal
from usfm.train.observe.observers import Observers
from usfm.train.optim import make_optimizer
from usfm.train.prefetch import MicroBatch, as_micro_batch
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan, needs_even_lanes
from usfm.train.pretrain_step import PretrainStep
from usfm.train.start import begin
from usfm.train.there import while_there
from usfm.train.together import together
from usfm.train.trackers import Tracker, open_trackers

__all__ = ["Feed", "local_feed", "pretrain"]

Feed = Callable[[int], Iterator[MicroBatch]]
"""From a first step to this worker's micro-batches, in order of (step, lane)."""


def local_feed(stream: ImageStream, plan: PretrainPlan, config: PretrainConfig, context: WorkerContext) -> Feed:
    """Micro-batches read in this process, without Ray Data."""

    def feed(start: int) -> Iterator[MicroBatch]:
        for step in range(start, plan.total_steps):
            for lane in range(context.rank, plan.lanes, context.world_size):
                index = micro_batch_indices(step, lane, plan.lanes, config.batch.micro_size)
                yield as_micro_batch(stream.read(index))

    return feed


def pretrain(
    config: PretrainConfig,
    context: WorkerContext,
    feed_of: Callable[[ImageStream, PretrainPlan], Feed],
    stop_after: int | None = None,
    opened: bool = False,
) -> dict[str, Any]:
    """Run, or go on with, a pre-training run on this worker.

    Args:
        config: the run.
        context: this worker.
        feed_of: makes this worker's feed from stream and plan.
        stop_after: end after this many steps of the schedule, with a checkpoint (an interruption, for tests).
        opened: the run's folder was made with `open_run`. Where it looks otherwise, its storage is away: that is
            waited for, so that no run that has checkpoints starts from nothing.

    Returns:
        The last row of metrics.

    Raises:
        NonFiniteLoss: a loss or gradient was NaN or infinite. The step was not taken; ids of the batch are in
            `nonfinite/` of the run's folder.
        ShardError: the feed delivered other samples than planned.
        CheckpointError: the checkpoint found is not one of this run.
    """
    stream = ImageStream(config.data, config.seed)
    plan = PretrainPlan.derive(config, stream, context.world_size, even=needs_even_lanes(config))
    run_dir, identity = Path(config.run_dir), plan.identity(config)
    torch.manual_seed(stream_key(config.seed, "init"))
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed).to(context.device)
    optimizer = make_optimizer(objective, config.optim)
    found = _agreed(context, run_dir, opened)

    def load() -> tuple[int, dict[str, Any]]:
        saved = read_state(found) if found else {}
        return begin(found, config.start, objective, optimizer, identity), saved

    start, saved = together(context, lambda: while_there(run_dir, load, opened))
    unwritten = saved.get("unwritten", ())
    step_of = PretrainStep(config, plan, context, stream, objective, optimizer, start)
    step_of.refusals.in_a_row = int(saved.get("refused_in_a_row", 0))
    observers = together(context, lambda: Observers(config, plan, context, objective, start, unwritten))
    step_of.watch = observers.gradients
    end = min(plan.total_steps, stop_after or plan.total_steps)
    batches = feed_of(stream, plan)(start)
    row: dict[str, Any] = {}
    first = context.rank == 0
    with (
        Journal(run_dir, start, first, unwritten, _trackers(config, first), opened) as journal,
        CheckpointWriter(run_dir, config.keep_checkpoints, writes=first) as checkpoints,
    ):
        for step in range(start, end):
            row = step_of.take(step, batches)
            row |= observers.after(step + 1, row, journal)
            journal.write(step + 1, row)
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == end:
                state = {
                    "step": step + 1, "samples": row["samples"], "unwritten": journal.settle(),
                    "refused_in_a_row": step_of.refusals.in_a_row, **identity,
                }  # fmt: skip
                checkpoints.save(step + 1, objective, optimizer, state)
                context.report({"step": step + 1, **row})
    return row


def _trackers(config: PretrainConfig, first: bool) -> list[Tracker]:
    return open_trackers(config.tracker, Path(config.run_dir), config.model_dump(mode="json")) if first else []


def _agreed(context: WorkerContext, run_dir: Path, opened: bool) -> Path | None:
    """The checkpoint that rank 0 found: a shared folder may show a worker on another node an older state."""
    found = None
    if context.rank == 0:
        found = while_there(run_dir, lambda: latest_checkpoint(run_dir), opened)
    step = int(found.name.removeprefix("step-")) if found else 0
    agreed = int(context.sum(torch.tensor([step], device=context.device))[0])
    folder = checkpoint_folder(run_dir, agreed) if agreed else None
    if folder is not None and context.rank > 0:
        patiently(lambda: (folder / STATE).stat(), str(folder))  # this node may see it a little later
    return folder
