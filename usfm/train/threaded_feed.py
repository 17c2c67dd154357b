"""A worker's micro-batches without Ray Data: read in this process, decoded by threads, some ahead of the step."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from usfm.data.stream import Arrays, ImageStream, micro_batch_indices
from usfm.train.context import WorkerContext
from usfm.train.prefetch import MicroBatch, as_micro_batch
from usfm.train.pretrain import Feed
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

__all__ = ["threaded_feed"]


def threaded_feed(
    stream: ImageStream, plan: PretrainPlan, config: PretrainConfig, context: WorkerContext, threads: int = 1
) -> Feed:
    """As `local_feed`, but the next `threads` + 1 micro-batches are made while the step computes.

    Args:
        stream: of the run.
        plan: what follows from stream and config.
        config: the run.
        context: this worker.
        threads: that decode; OpenCV decodes outside the interpreter's lock, so they use as many cores.
    """

    def feed(start: int) -> Iterator[MicroBatch]:
        pending: deque[Future[Arrays]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            for step in range(start, plan.total_steps):
                for lane in range(context.rank, plan.lanes, context.world_size):
                    index = micro_batch_indices(step, lane, plan.lanes, config.batch.micro_size)
                    pending.append(pool.submit(stream.decode, stream.fetch(index)))
                    if len(pending) > threads + 1:
                        yield as_micro_batch(pending.popleft().result())
            while pending:
                yield as_micro_batch(pending.popleft().result())

    return feed
