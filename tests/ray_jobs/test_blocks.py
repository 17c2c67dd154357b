"""Blocks of the feed: every worker's blocks, in order, are its lanes of the stream and nothing else."""

import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs import blocks
from ray_jobs.blocks import BlockPlan, BlockReader, cut
from usfm.data.shares import SamplingConfig
from usfm.data.stream import ImageStream, StreamConfig, micro_batch_indices


@pytest.fixture(scope="module")
def stream(small_shards: Path) -> ImageStream:
    return ImageStream(
        StreamConfig(shards=str(small_shards), canvas_px=64, sampling=SamplingConfig(chunk_size=24)), 5
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(0, 20), st.integers(1, 30),
    st.sampled_from([1, 1 << 12, 1 << 14, 1 << 20]),
)  # fmt: skip
def test_blocks_of_all_workers_are_the_stream(stream, micro, world, per_worker, start, length, block_bytes) -> None:
    lanes = world * per_worker
    with patch.object(blocks, "BLOCK_BYTES", block_bytes):
        for rank in range(world):
            plan = BlockPlan(stream, micro, lanes, range(start, start + length), rank, world)
            got = np.concatenate([plan.indices(k) for k in range(plan.blocks)])
            steps = range(start, start + length)
            expected = [
                micro_batch_indices(s, lane, lanes, micro) for s in steps for lane in range(rank, lanes, world)
            ]
            assert np.array_equal(got, np.concatenate(expected))  # in the order of the loop


def test_a_task_reads_what_the_stream_says(stream: ImageStream) -> None:
    plan = BlockPlan(stream, 4, 4, range(3, 10), 1, 2)
    reader = pickle.loads(pickle.dumps(BlockReader(plan, first=0)))
    tables = list(reader(pa.table({"id": list(range(plan.blocks))})))
    index = np.concatenate([plan.indices(k) for k in range(plan.blocks)])
    got, expected = stream.decode(pa.concat_tables(tables)), stream.read(index)
    assert list(got) == list(expected)
    for name in got:
        assert np.array_equal(got[name], expected[name]), name


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 5))
def test_micro_batches_are_cut_across_the_borders_of_blocks(sizes, size) -> None:
    ends = np.cumsum([0, *sizes])
    tables = [pa.table({"i": np.arange(a, b)}) for a, b in zip(ends, ends[1:], strict=False)]
    parts = [part.column("i").to_pylist() for part in cut(iter(tables), size)]
    assert all(len(part) == size for part in parts)
    whole = ends[-1] // size * size
    assert [i for part in parts for i in part] == list(range(whole))


def test_a_tasks_process_needs_no_torch() -> None:
    code = "import sys, ray_jobs.blocks; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
