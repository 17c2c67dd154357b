"""The feed through Ray Data: windows, their borders, and what happens to errors and to a loop that stops early."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from usfm.data.stream import ImageStream
from usfm.errors import ShardError
from usfm.train.context import PlainContext
from usfm.train.pretrain import local_feed
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
NAMES = ("index", "organ", "height", "width", "replaced", "image")


def made(shards: Path) -> tuple[PretrainConfig, ImageStream]:
    config = PretrainConfig.build(
        {
            "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 24}},
            "encoder": {"size": "nano", "img_px": 32, "patch_px": 8},
            "objective": {"spatial_mask": {"unit_px": 8}},
            "batch": {"global_size": 16, "micro_size": 4}, "epochs": 1, "epoch_samples": 480,
        }
    )  # fmt: skip
    return config, ImageStream(config.data, config.seed)


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one lane, windows of 2, 4 and 4 blocks: 30 steps cross many borders."""
    monkeypatch.setattr("ray_jobs.feed.WINDOWS", (2, 4))
    monkeypatch.setattr("ray_jobs.blocks.BLOCK_BYTES", 1)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(("rank", "world", "start"), [(0, 1, 20), (1, 2, 0), (3, 4, 29)])
def test_every_batch_of_every_window_is_the_planned_one(
    small_shards: Path, rank: int, world: int, start: int
) -> None:
    from ray_jobs.feed import worker_feed

    config, stream = made(small_shards)
    plan = PretrainPlan.derive(config, stream, world)
    context = PlainContext()
    context.rank, context.world_size = rank, world
    expected = list(local_feed(stream, plan, config, context)(start))
    got = list(worker_feed(config, stream, plan, rank, world, threads=2)(start))
    assert len(got) == len(expected) == (30 - start) * 4 // world
    for one, other in zip(got, expected, strict=True):
        for name in NAMES:
            assert np.array_equal(one[name], other[name]), name


@pytest.mark.usefixtures("small_windows")
def test_a_loop_may_stop_early_and_start_again(small_shards: Path) -> None:
    from ray_jobs.feed import worker_feed

    config, stream = made(small_shards)
    feed = worker_feed(config, stream, PretrainPlan.derive(config, stream, 1), 0, 1)
    batches = feed(0)
    first = [next(batches)["index"].tolist() for _ in range(9)]
    batches.close()
    again = feed(0)
    assert [next(again)["index"].tolist() for _ in range(9)] == first
    again.close()


@pytest.mark.usefixtures("small_windows")
def test_shards_that_are_lost_while_the_stream_runs_are_replaced(small_shards: Path, tmp_path: Path) -> None:
    from ray_jobs.feed import worker_feed

    shards = Path(shutil.copytree(small_shards, tmp_path / "shards"))
    config, stream = made(shards)
    batches = worker_feed(config, stream, PretrainPlan.derive(config, stream, 4), 0, 4)(0)
    seen = [next(batches)]
    lost = shards / "train/heart/00001.arrow"
    lost.unlink()  # who has it mapped keeps its pages, so first those tasks' processes have to lose it
    lost.write_bytes(b"overwritten")
    seen += list(batches)
    index = np.concatenate([b["index"] for b in seen])
    assert np.array_equal(index, np.arange(480).reshape(30, 4, 4)[:, 0].ravel())
    replaced = np.concatenate([b["index"][b["replaced"] > 0] for b in seen])
    assert not len(replaced) or stream.paths(replaced) == ["train/heart/00001.arrow"]


@pytest.mark.usefixtures("small_windows")
def test_an_error_in_a_task_reaches_the_loop(small_shards: Path, tmp_path: Path) -> None:
    from ray_jobs.feed import worker_feed

    shards = Path(shutil.copytree(small_shards, tmp_path / "shards"))
    config, stream = made(shards)
    for path in (shards / "train/heart").iterdir():
        path.write_bytes(b"overwritten")
    with pytest.raises(ShardError, match="not one shard of heart in"):
        list(worker_feed(config, stream, PretrainPlan.derive(config, stream, 4), 0, 4)(0))
