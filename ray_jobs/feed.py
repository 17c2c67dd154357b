"""Ray Data between shards and train workers: the planned stream, in exact order, on any number of workers.

The dataset is a list of blocks, made by one pure function of their number. Block (k, l) holds lane l of the k-th
group of `steps_per_block` steps: a few large blocks, all work inside one function, nothing per row. Blocks are
dealt to W workers in turn, so worker r gets lanes r, r + W, ... of every group and puts them back into step order.
The loop checks every micro-batch against the plan: a change of Ray's dealing stops the run, it never bends it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.data
import ray.train
import torch
from ray.data import DataContext

from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.train.pretrain import Feed, MicroBatch, PretrainConfig, PretrainPlan

__all__ = ["stream_dataset", "worker_feed"]

BLOCK_IMAGES = 256  # about 16 MB of 256 px images: large enough to amortise a task, small for the object store


def steps_per_block(config: PretrainConfig) -> int:
    """Steps whose share of one lane makes up a block."""
    return max(1, BLOCK_IMAGES // config.batch.micro_size)


def stream_dataset(config: PretrainConfig, start: int, world_size: int) -> ray.data.Dataset:
    """The rest of a run's stream from step `start`, as a dataset of whole blocks in order."""
    plan = PretrainPlan.derive(config, ImageStream(config.data, config.seed), world_size)
    group = steps_per_block(config)
    first_steps = range(start, plan.total_steps, group)
    blocks = [{"first": first, "lane": lane} for first in first_steps for lane in range(plan.lanes)]
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    read = _BlockReader(config, plan)
    return ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        read, batch_size=None, batch_format="numpy"
    )


class _BlockReader:
    """Reads blocks inside a Ray task; shards are opened there and the plan is computed there."""

    def __init__(self, config: PretrainConfig, plan: PretrainPlan) -> None:
        self.config, self.plan = config, plan
        self._stream: ImageStream | None = None

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import cv2

        cv2.setNumThreads(1)  # one thread per Ray CPU
        stream = _stream_of(self.config)
        for first, lane in zip(batch["first"], batch["lane"], strict=True):
            yield stream.read(self.indices(int(first), int(lane)))

    def indices(self, first: int, lane: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Sample indices of a block."""
        last = min(first + steps_per_block(self.config), self.plan.total_steps)
        size = self.config.batch.micro_size
        return np.concatenate([micro_batch_indices(s, lane, self.plan.lanes, size) for s in range(first, last)])


_streams: dict[str, ImageStream] = {}


def _stream_of(config: PretrainConfig) -> ImageStream:
    """The stream, made once per worker process and set of shards (tasks of one process share memory maps)."""
    key = f"{config.data.model_dump_json()}|{config.seed}"
    if key not in _streams:
        _streams.clear()
        _streams[key] = ImageStream(config.data, config.seed)
    return _streams[key]


def worker_feed(config: PretrainConfig, plan: PretrainPlan, rank: int, world_size: int) -> Feed:
    """This worker's micro-batches from the dataset shard that Ray Train gave it."""

    def feed(start: int) -> Iterator[MicroBatch]:
        shard = ray.train.get_dataset_shard("train")
        blocks = iter(shard.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))
        lanes = range(rank, plan.lanes, world_size)
        size = config.batch.micro_size
        for first in range(start, plan.total_steps, steps_per_block(config)):
            steps = min(steps_per_block(config), plan.total_steps - first)
            # one block per lane of this worker, then step by step through all of them
            held = [next(blocks) for _ in lanes]
            for step in range(steps):
                rows = slice(step * size, (step + 1) * size)
                for block in held:
                    # blocks are read-only views of the object store; a copy per micro-batch frees them early
                    yield {name: torch.from_numpy(array[rows].copy()) for name, array in block.items()}

    return feed
