"""Ray Data between shards and train workers: the planned stream, in exact order, on any number of workers.

Every train worker runs datasets of its own over its own lanes of the stream, so nothing is dealt out between
workers, and no process sees all of the stream. A dataset is a window of some hundred blocks; its tasks are made by
one pure function of the block's number, and while one window is consumed the next is started. So planning costs
the same at the first step of a short run as in the middle of a long one (Ray Data takes 1.2 ms per task of a
dataset before the first block comes: two minutes for 10^5 blocks, see docs/LOG.md).

Block k of a worker holds its lanes of the k-th group of `steps_per_block` steps, ordered by (step, lane).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import ray.data
import torch
from ray.data import DataContext, ExecutionResources

from usfm.data.stream import ImageStream, micro_batch_indices
from usfm.errors import ConfigError
from usfm.train.pretrain import Feed, MicroBatch, PretrainConfig, PretrainPlan

__all__ = ["BlockPlan", "worker_feed"]

BLOCK_BYTES = 32 << 20  # large enough to amortise a task, small for the object store
MAX_BLOCK_BYTES = 96 << 20  # well below Ray Data's 128 MiB, above which it would cut a block in two
FIRST_WINDOW, LAST_WINDOW = 32, 512  # blocks; the first is small, so that the first batch comes soon
STORE_SHARE = 0.5  # of the object store, for all workers together; the rest is left to checkpoints and others


class BlockPlan:
    """Which samples of the stream each block of one worker holds. Pickles small."""

    def __init__(self, config: PretrainConfig, plan: PretrainPlan, start: int, rank: int, world_size: int) -> None:
        """Plan the rest of a run from step `start`.

        Raises:
            ConfigError: a single micro-batch is larger than a block may be.
        """
        size = config.batch.micro_size * config.data.canvas_px**2
        if size > MAX_BLOCK_BYTES:
            most = MAX_BLOCK_BYTES // config.data.canvas_px**2
            raise ConfigError(
                f"a micro-batch of {config.batch.micro_size} images of {config.data.canvas_px} px is too large for "
                f"one block; set batch.micro_size to at most {most}"
            )
        self.config, self.start, self.end = config, start, plan.total_steps
        self.lanes, self.own = plan.lanes, range(rank, plan.lanes, world_size)
        self.steps_per_block = max(1, BLOCK_BYTES // (size * len(self.own)))
        # a step whose lanes do not fit into one block is cut into blocks of some lanes
        self.lanes_per_block = min(len(self.own), max(1, BLOCK_BYTES // size))

    @property
    def blocks(self) -> int:
        """Blocks until the end of the run."""
        return -(-(self.end - self.start) // self.steps_per_block) * self._blocks_per_group

    @property
    def _blocks_per_group(self) -> int:
        return -(-len(self.own) // self.lanes_per_block)

    def indices(self, block: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Sample indices of a block, in the order in which the loop takes them."""
        group, part = divmod(block, self._blocks_per_group)
        first = self.start + group * self.steps_per_block
        steps = range(first, min(first + self.steps_per_block, self.end))
        lanes = self.own[part * self.lanes_per_block : (part + 1) * self.lanes_per_block]
        size = self.config.batch.micro_size
        return np.concatenate(
            [micro_batch_indices(step, lane, self.lanes, size) for step in steps for lane in lanes]
        )


class _BlockReader:
    """Reads blocks inside a Ray task; shards are opened there and the plan is computed there."""

    def __init__(self, blocks: BlockPlan, first: int) -> None:
        self.blocks, self.first = blocks, first

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)  # one thread per Ray CPU
        stream = _stream_of(self.blocks.config)
        for number in batch["id"]:
            yield stream.read(self.blocks.indices(self.first + int(number)))


_streams: dict[str, ImageStream] = {}


def _stream_of(config: PretrainConfig) -> ImageStream:
    """The stream, made once per worker process and set of shards (tasks of one process share memory maps)."""
    key = f"{config.data.model_dump_json()}|{config.seed}"
    if key not in _streams:
        _streams.clear()
        _streams[key] = ImageStream(config.data, config.seed)
    return _streams[key]


def worker_feed(config: PretrainConfig, plan: PretrainPlan, rank: int, world_size: int) -> Feed:
    """This worker's micro-batches; must be called on a Ray Train worker."""

    def feed(start: int) -> Iterator[MicroBatch]:
        size = config.batch.micro_size
        for block in _blocks(BlockPlan(config, plan, start, rank, world_size), world_size):
            for first in range(0, len(block["index"]), size):
                # blocks are read-only views of the object store; a copy per micro-batch frees them early
                yield {name: torch.from_numpy(array[first : first + size].copy()) for name, array in block.items()}

    return feed


def _blocks(plan: BlockPlan, world_size: int) -> Iterator[dict[str, Any]]:
    """All blocks in order, window by window; the next window is started while one is consumed."""
    with ThreadPoolExecutor(1, thread_name_prefix="next-window") as pool:
        first, length = 0, FIRST_WINDOW
        opened = pool.submit(_open, plan, first, min(length, plan.blocks - first), world_size)
        while first < plan.blocks:
            count = min(length, plan.blocks - first)
            block, rest = opened.result()
            first, length = first + count, min(length * 2, LAST_WINDOW)
            for left in range(count - 1, -1, -1):
                if left == count // 4 and first < plan.blocks:
                    opened = pool.submit(_open, plan, first, min(length, plan.blocks - first), world_size)
                yield block
                if left:
                    block = next(rest)


def _open(
    plan: BlockPlan, first: int, count: int, world_size: int
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Start a window; returns when its first block is there."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    options = context.execution_options
    options.preserve_order = True
    total = ray.cluster_resources()
    # every worker's executor believes that it is alone; tell it its part
    store = STORE_SHARE * total.get("object_store_memory", 1 << 30) / world_size
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=store)
    # numbers alone travel to the tasks: nothing of the run's length is put into the object store
    numbers = ray.data.range(count, override_num_blocks=count)
    dataset = numbers.map_batches(_BlockReader(plan, first), batch_size=None, batch_format="numpy")
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))
    return next(blocks), blocks
