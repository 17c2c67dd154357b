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
from usfm.errors import ConfigError
from usfm.train.pretrain import Feed, MicroBatch, PretrainConfig, PretrainPlan

__all__ = ["stream_dataset", "worker_feed"]

BLOCK_BYTES = 32 << 20  # large enough to amortise a task, small for the object store
MAX_BLOCK_BYTES = 96 << 20  # well below Ray Data's 128 MiB, above which it would cut a block in two


def steps_per_block(config: PretrainConfig) -> int:
    """Steps whose share of one lane makes up a block.

    Raises:
        ConfigError: a single micro-batch is larger than a block may be.
    """
    size = config.batch.micro_size * config.data.canvas_px**2
    if size > MAX_BLOCK_BYTES:
        most = MAX_BLOCK_BYTES // config.data.canvas_px**2
        raise ConfigError(
            f"a micro-batch of {config.batch.micro_size} images of {config.data.canvas_px} px is too large for one "
            f"block; set batch.micro_size to at most {most}"
        )
    return max(1, BLOCK_BYTES // size)


def stream_dataset(config: PretrainConfig, start: int, world_size: int) -> ray.data.Dataset:
    """The rest of a run's stream from step `start`, as a dataset of whole blocks in order."""
    plan = PretrainPlan.derive(config, ImageStream(config.data, config.seed), world_size)
    groups = -(-(plan.total_steps - start) // steps_per_block(config))
    blocks = max(1, groups * plan.lanes)  # a run that is done still needs a dataset
    context = DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    read = _BlockReader(config, plan, start)
    # numbers alone travel to the tasks: nothing of the run's length is put into the object store
    return ray.data.range(blocks, override_num_blocks=blocks).map_batches(
        read, batch_size=None, batch_format="numpy"
    )


class _BlockReader:
    """Reads blocks inside a Ray task; shards are opened there and the plan is computed there."""

    def __init__(self, config: PretrainConfig, plan: PretrainPlan, start: int) -> None:
        self.config, self.plan, self.start = config, plan, start

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import cv2

        cv2.setNumThreads(1)  # one thread per Ray CPU
        stream = _stream_of(self.config)
        for number in batch["id"]:
            yield stream.read(self.indices(int(number)))

    def indices(self, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Sample indices of a block; blocks are numbered group by group, lane by lane."""
        group, lane = divmod(number, self.plan.lanes)
        first = self.start + group * steps_per_block(self.config)
        last = min(first + steps_per_block(self.config), self.plan.total_steps)
        size = self.config.batch.micro_size
        steps = [micro_batch_indices(s, lane, self.plan.lanes, size) for s in range(first, last)]
        return np.concatenate(steps) if steps else np.empty(0, np.int64)


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
