"""A storage that is away or full for some seconds, under the loop itself: no cluster, so it is quick."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
import torch
from chaos.storage import RunStorage
from chaos.watched_job import loss_stream, settings
from threads import torch_threads

from ray_jobs.pretrain import PretrainJobConfig
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.checkpoint_writer import PROBLEMS
from usfm.train.context import PlainContext
from usfm.train.journal import last_row
from usfm.train.pretrain import local_feed, pretrain

STEPS = 60


def train(shards: Path, run_dir: Path, pause: Callable[[int], None] = lambda step: None) -> None:
    """Train on one thread; `pause` is called before every step."""
    config = PretrainJobConfig.build(settings(str(shards), run_dir, STEPS)).science()
    context = PlainContext(torch.device("cpu"))

    def feed_of(stream, plan):
        def feed(start: int):
            for number, batch in enumerate(local_feed(stream, plan, config, context)(start)):
                pause(start + number // plan.lanes)
                yield batch

        return feed

    with torch_threads(1):
        pretrain(config, context, feed_of)


@pytest.fixture(scope="module")
def undisturbed(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    train(small_shards, run_dir)
    return loss_stream(run_dir)


@pytest.mark.slow
# TensorBoard's own thread dies of it, loudly; a new one is started
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", ["away", "full"])
def test_a_storage_that_fails_for_a_while_costs_nothing(
    kind: str, small_shards: Path, tmp_path: Path, undisturbed: list[dict]
) -> None:
    """It fails at step 20 and is back at step 42: saves of 25, 30, 35 and 40 meet it."""
    me, failing, seen = psutil.Process(), threading.Event(), {}
    with RunStorage(tmp_path / "storage") as storage:
        run_dir = storage.folder / "run"
        fault: list[AbstractContextManager[None]] = []

        def pause(step: int) -> None:
            if step == 20 and not failing.is_set():
                failing.set()
                seen["before"] = latest_checkpoint(run_dir)
                fault.append(storage.away(run_dir, me) if kind == "away" else storage.full(me))
                fault[0].__enter__()
            if step == 42 and fault:
                seen["in it"] = last_row(run_dir)
                fault.pop().__exit__(None, None, None)

        train(small_shards, run_dir, pause)
        assert seen["before"] is not None
        assert failing.is_set()
        assert not fault
        assert loss_stream(run_dir) == undisturbed
        assert latest_checkpoint(run_dir) == run_dir / f"step-{STEPS:08d}"
        said = (run_dir / PROBLEMS).read_text()
        assert "not written" in said
        assert "given up for step" in said
        if storage.mounts and kind == "away":  # no row reached the storage meanwhile: all of them waited
            assert (seen["in it"] or {"step": 0})["step"] <= 20
