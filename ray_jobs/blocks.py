"""Blocks of the stream for one train worker, and the Ray task that reads them.

Apart from the feed, for a task's process imports what the task needs: this module brings no torch with it, and so
the first batch comes seconds earlier.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from usfm.data.stream import ImageStream, micro_batch_indices

__all__ = ["BLOCK_BYTES", "BlockPlan", "BlockReader", "cut"]

BLOCK_BYTES = 24 << 20  # encoded; large enough to amortise a task, well below the 128 MiB at which Ray Data cuts


class BlockPlan:
    """Which samples of the stream each block of one worker holds. Pickles small."""

    def __init__(
        self, stream: ImageStream, micro_size: int, lanes: int, steps: range, rank: int, world_size: int
    ) -> None:
        """Plan the blocks of one worker.

        Args:
            stream: the run's stream.
            micro_size: samples of a micro-batch.
            lanes: micro-batches of a step, over all workers.
            steps: steps that are still to be done.
            rank: of this worker; it computes lanes rank, rank + world_size, ...
            world_size: number of workers.
        """
        self.stream, self.micro_size, self.lanes = stream, micro_size, lanes
        self.start, self.end = steps.start, steps.stop
        self.own = range(rank, lanes, world_size)
        size = max(1, int(micro_size * stream.mean_row_bytes))
        self.steps_per_block = max(1, BLOCK_BYTES // (size * len(self.own)))
        # a step whose lanes do not fit into one block is cut into blocks of some lanes
        self.lanes_per_block = min(len(self.own), max(1, BLOCK_BYTES // size))

    @property
    def blocks(self) -> int:
        """Blocks until the end of the run."""
        return -(-(self.end - self.start) // self.steps_per_block) * self._blocks_per_group

    @property
    def _blocks_per_group(self) -> int:
        groups: int = -(-len(self.own) // self.lanes_per_block)
        return groups

    def indices(self, block: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Sample indices of a block, in the order in which the loop takes them."""
        group, part = divmod(block, self._blocks_per_group)
        first = self.start + group * self.steps_per_block
        steps = range(first, min(first + self.steps_per_block, self.end))
        lanes = self.own[part * self.lanes_per_block : (part + 1) * self.lanes_per_block]
        size = self.micro_size
        return np.concatenate(
            [micro_batch_indices(step, lane, self.lanes, size) for step in steps for lane in lanes]
        )


class BlockReader:
    """Reads blocks inside a Ray task; shards are opened there and the plan is computed there."""

    def __init__(self, blocks: BlockPlan, first: int) -> None:
        self.blocks, self.first = blocks, first

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """One table of `FETCHED` columns for each number in column `id`."""
        stream = self.blocks.stream
        for number in batch.column("id").to_pylist():
            yield pa.Table.from_batches([stream.fetch(self.blocks.indices(self.first + number))])


def cut(blocks: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Cut blocks into micro-batches, also across their borders: Ray Data may cut a block that is too large."""
    left: pa.Table | None = None
    for block in blocks:
        table = block if left is None else pa.concat_tables([left, block])
        whole = table.num_rows // size * size
        for first in range(0, whole, size):
            yield table.slice(first, size)
        left = table.slice(whole) if whole < table.num_rows else None
