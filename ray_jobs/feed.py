"""Ray Data between shards and train workers: the planned stream, in exact order, on any number of workers.

Tasks of Ray Data find the rows, fetch them from the storage and send them on as they are stored; the train worker
decodes them in threads, a few micro-batches ahead. Decoded images would be three times the bytes to write, send and
copy, which cost a third of the rate on two cores (docs/LOG.md).

Every train worker runs datasets of its own over its own lanes of the stream, so nothing is dealt out between
workers, and no process sees all of the stream. A dataset is a window of some hundred blocks; its tasks are made by
one pure function of the block's number, and while one window is consumed the next is started. So planning costs
the same at the first step of a short run as in the middle of a long one (Ray Data takes 1.2 ms per task of a
dataset before the first block comes: two minutes for 10^5 blocks, see docs/LOG.md).

Block k of a worker holds its lanes of the k-th group of `steps_per_block` steps, ordered by (step, lane).
"""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback  # the type that the context wants

from ray_jobs.blocks import BlockPlan, BlockReader, cut
from usfm.data.stream import Arrays, ImageStream
from usfm.train.prefetch import MicroBatch, as_micro_batch
from usfm.train.pretrain import Feed
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

__all__ = ["worker_feed"]

WINDOWS = (32, 512)  # blocks of the first and of the largest window; the first batch must come soon
PACE_S = 0.02
STORE_SHARE = 0.5  # of the object store, for all workers together; the rest is left to checkpoints and others
TASK_CPUS = 1.0  # a quarter would start four processes a core, and their start is what delays the first batch


def worker_feed(
    config: PretrainConfig, stream: ImageStream, plan: PretrainPlan, rank: int, world_size: int, threads: int = 1
) -> Feed:
    """This worker's micro-batches; must be called on a Ray worker.

    Args:
        config: the run.
        stream: its stream.
        plan: what follows from both.
        rank: of this worker.
        world_size: number of workers.
        threads: that decode in this process, next to the training loop.
    """

    def feed(start: int) -> Iterator[MicroBatch]:
        blocks = _blocks(
            BlockPlan(
                stream, config.batch.micro_size, plan.lanes, range(start, plan.total_steps), rank, world_size
            ),
            world_size,
        )
        cv2.setNumThreads(1)
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            ahead: deque[Future[Arrays]] = deque()
            for rows in cut(blocks, config.batch.micro_size):
                ahead.append(pool.submit(stream.decode, rows))
                if len(ahead) > threads + 1:
                    yield as_micro_batch(ahead.popleft().result())
            while ahead:
                yield as_micro_batch(ahead.popleft().result())

    return feed


def _blocks(plan: BlockPlan, world_size: int) -> Iterator[pa.Table]:
    """All blocks in order, window by window; the next window is started while one is consumed."""
    with ThreadPoolExecutor(1, thread_name_prefix="next-window") as pool:
        first, length = 0, WINDOWS[0]
        opened = pool.submit(_open, plan, first, min(length, plan.blocks - first), world_size)
        while first < plan.blocks:
            count = min(length, plan.blocks - first)
            block, rest = opened.result()
            first, length = first + count, min(length * 2, WINDOWS[1])
            for seen in itertools.count(1):
                if seen == count - count // 4 and first < plan.blocks:
                    opened = pool.submit(_open, plan, first, min(length, plan.blocks - first), world_size)
                yield block
                if (block := next(rest, None)) is None:
                    break


class _Pace(ExecutionCallback):  # type: ignore[misc]
    """Lets Ray Data's scheduling loop rest between its steps.

    While a task holds a block that the consumer has no room for, the loop of Ray 2.60 spins (its wait returns at
    once), in the train worker's own process: it eats a core and, worse, the decoding threads queue for the
    interpreter behind it. Blocks take some tenths of a second to consume, so a rest costs nothing.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(PACE_S)


def _open(plan: BlockPlan, first: int, count: int, world_size: int) -> tuple[pa.Table, Iterator[pa.Table]]:
    """Start a window; returns when its first block is there."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_Pace]
    options = context.execution_options
    options.preserve_order = True
    total = ray.cluster_resources()
    # every worker's executor believes that it is alone; tell it its part
    store = STORE_SHARE * total.get("object_store_memory", 1 << 30) / world_size
    options.resource_limits = ExecutionResources.for_limits(object_store_memory=store)
    # numbers alone travel to the tasks: nothing of the run's length is put into the object store
    numbers = ray.data.range(count, override_num_blocks=count)
    dataset = numbers.map_batches(
        BlockReader(plan, first), batch_size=None, batch_format="pyarrow", num_cpus=TASK_CPUS
    )
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    return next(blocks), blocks
