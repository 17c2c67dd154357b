"""A preparation that fails on one worker fails on all, in words; and what Ray and torchrun leave to each other."""

import threading
from collections.abc import Callable

import pytest
import torch

from ray_jobs.pretrain import PLACEMENT as OF_RAY
from usfm.errors import CheckpointError, ConfigError, ShardError, UsfmError
from usfm.train.context import PlainContext
from usfm.train.together import together
from usfm.train.torchrun import PLACEMENT as OF_TORCHRUN


class Threads:
    """Contexts of some workers that are threads; `sum` is a barrier, as a collective is."""

    def __init__(self, world: int) -> None:
        self.world, self.barrier, self.given = world, threading.Barrier(world, timeout=20), {}

    def run(self, works: list[Callable[[], int]]) -> list[object]:
        results: list[object] = [None] * self.world

        def worker(rank: int) -> None:
            context = PlainContext(torch.device("cpu"))
            context.rank, context.world_size = rank, self.world
            context.sum = lambda values: self.sum(rank, values)
            try:
                results[rank] = together(context, works[rank])
            except UsfmError as error:
                results[rank] = error

        threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results

    def sum(self, rank: int, values: torch.Tensor) -> torch.Tensor:
        self.given[rank] = values
        self.barrier.wait()
        total = torch.stack(list(self.given.values())).sum(dim=0)
        self.barrier.wait()
        return total


def failing(error: Exception) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


def test_work_that_succeeds_everywhere_returns() -> None:
    assert Threads(3).run([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]


@pytest.mark.parametrize("kind", [ConfigError, CheckpointError])
def test_an_error_of_one_worker_reaches_all_in_its_kind(kind: type[UsfmError]) -> None:
    own = kind("no class \u201eheart\u201d there")
    got = Threads(3).run([lambda: 1, failing(own), lambda: 3])
    assert got[1] is own
    for other in (got[0], got[2]):
        assert type(other) is kind
        assert str(other) == "worker 1: no class \u201eheart\u201d there"


def test_an_error_after_which_a_restart_helps_stays_one() -> None:
    got = Threads(2).run([failing(ShardError("away")), lambda: 1])
    assert type(got[1]) is UsfmError
    assert str(got[1]) == "worker 0: away"


def test_torchrun_leaves_out_exactly_what_ray_places() -> None:
    assert set(OF_RAY) == OF_TORCHRUN
