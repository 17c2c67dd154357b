"""What may befall a run, and how long it takes until it trains on: each event happens, then waits for recovery."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chaos.local_cluster import LocalCluster, kill
from chaos.paced import PACE_S
from chaos.storage import RunStorage, ShardServer
from chaos.watched_job import WatchedJob

from usfm.train.checkpoint import find_checkpoint
from usfm.train.checkpoint_writer import PROBLEMS

__all__ = ["ANY_WORKERS", "SAME_WORKERS", "Happened", "Scene"]

STILL_S = 15.0
"""Longer than a start of workers needs between its first sign and its first step."""


@dataclass(frozen=True)
class Happened:
    """One event.

    Attributes:
        kind: its name in `SAME_WORKERS` or `ANY_WORKERS`.
        step: newest step when it happened.
        recovery_s: until a later step was taken; for storage: from its return until a later checkpoint was whole.
        note: what else was seen.
    """

    kind: str
    step: int
    recovery_s: float
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class Scene:
    """A running job, where it runs, and dice."""

    cluster: LocalCluster
    storage: RunStorage
    job: WatchedJob
    dice: np.random.Generator
    server: ShardServer | None = None
    workers: int = 2

    def happen(self, kind: str) -> Happened:
        """Let an event happen now, and wait until the run has got over it."""
        before = self.job.step
        return (SAME_WORKERS | ANY_WORKERS)[kind](self, before)

    def trained_on(self, before: int) -> float:
        """Seconds until a step after `before` is taken."""
        return self.job.until(lambda: self.job.step > before, f"step after {before}")

    def started_anew(self, count: int | None = None) -> tuple[int, float]:
        """After a submission: the newest step once its own workers train, and the seconds until they took one.

        Workers of a driver that was killed take steps until they notice; those are no recovery.
        """
        began, old = time.monotonic(), {worker.pid for worker in self.cluster.workers()}

        def new_ones() -> bool:
            now = {worker.pid for worker in self.cluster.workers()}
            return len(now) == (count or len(now) or 1) and not now & old

        self.job.until(new_ones, "new workers")
        before = self.job.step
        self.trained_on(before)
        return before, time.monotonic() - began

    def standing_still(self) -> int:
        """The newest step, once none has been taken for `STILL_S`."""
        step, since = self.job.step, time.monotonic()

        def still() -> bool:
            nonlocal step, since
            if self.job.step != step:
                step, since = self.job.step, time.monotonic()
            return time.monotonic() - since > STILL_S

        self.job.until(still, "standstill")
        return step

    def saved_on(self, before: int) -> float:
        """Seconds until a checkpoint after `before` is whole."""
        return self.job.until(lambda: self.job.saved > before, f"checkpoint after step {before}")

    def the_writer(self) -> Any:
        """The process that writes the run, once there is one."""
        found: list[Any] = []  # what was found is kept: a moment later it may be gone

        def there() -> bool:
            found[:] = [self.cluster.writer(self.job.run_dir)]
            return found[0] is not None

        self.job.until(there, "worker that writes")
        return found[0]

    def some_seconds(self, least: float, most: float) -> float:
        """Pass a random time; returns it."""
        seconds = float(self.dice.uniform(least, most))
        threading.Event().wait(seconds)
        return seconds

    def steps_s(self, least: int, most: int) -> float:
        """Seconds that a random number of steps takes now; to be asked while the rows can be read."""
        return float(self.dice.integers(least, most + 1)) * self.job.step_s


def worker_killed(scene: Scene, before: int) -> Happened:
    """SIGKILL to one of the processes that train."""
    scene.the_writer()
    workers = sorted(scene.cluster.workers(), key=lambda process: process.pid)
    kill(workers[int(scene.dice.integers(len(workers)))])
    before = scene.job.step
    return Happened("worker killed", before, scene.trained_on(before))


def node_replaced(scene: Scene, before: int) -> Happened:
    """All processes of a node die; some seconds later another node joins."""
    scene.the_writer()
    began = time.monotonic()
    scene.cluster.lose_node()
    before = scene.job.step  # now nobody takes another one
    passed = scene.some_seconds(0, 4)
    scene.cluster.add_node()
    scene.trained_on(before)
    return Happened("node replaced", before, time.monotonic() - began, f"new node after {passed:.1f} s")


def driver_killed(scene: Scene, before: int) -> Happened:
    """SIGKILL to the job's command, which is submitted again some seconds later."""
    scene.job.kill_driver()
    passed = scene.some_seconds(0, 3)
    scene.job.submit()
    before, recovery = scene.started_anew()
    return Happened("driver killed", before, recovery, f"submitted again after {passed:.1f} s")


def submitted_twice(scene: Scene, before: int) -> Happened:
    """The command is submitted again while it runs; the newer submission goes on."""
    ended = scene.job.submit_beside()
    assert ended == 2, scene.job.output()[-3000:]
    assert "taken over by a newer submission" in scene.job.output()
    before = scene.job.step
    return Happened("submitted twice", before, scene.trained_on(before), "the older one ended with a message")


def disk_full(scene: Scene, before: int) -> Happened:
    """No byte fits on the run's storage for some steps, in which saves are due."""
    writer, problems = scene.the_writer(), _problems(scene.job.run_dir)
    before, lasts = scene.job.step, scene.steps_s(12, 24)
    with scene.storage.full(writer):
        whole = find_checkpoint(scene.job.run_dir)[0]
        assert whole is not None
        passed = scene.some_seconds(lasts, lasts)
        assert find_checkpoint(scene.job.run_dir)[0] is not None  # the one before stays
    recovery = scene.saved_on(scene.job.saved)
    scene.job.until(lambda: _problems(scene.job.run_dir) > problems, "problem written down")
    assert writer.is_running()  # nothing was restarted
    return Happened("disk full", before, recovery, f"for {passed:.1f} s; nothing restarted")


def storage_away(scene: Scene, before: int, steps: tuple[int, int] = (20, 60)) -> Happened:
    """The run's folder is away for a while: reading finds nothing, writing is refused."""
    writer, saved = scene.the_writer(), scene.job.saved
    before, lasts = scene.job.step, scene.steps_s(*steps)
    with scene.storage.away(scene.job.run_dir, writer):
        passed = scene.some_seconds(lasts, lasts)
    recovery = scene.saved_on(max(saved, scene.job.saved))
    assert writer.is_running()
    return Happened("storage away", before, recovery, f"for {passed:.1f} s; nothing restarted")


def storage_away_a_minute(scene: Scene, before: int) -> Happened:
    """The same for a minute, as long as steps take `PACE_S`."""
    happened = storage_away(scene, before, (round(60 / PACE_S), round(60 / PACE_S)))
    return Happened("storage away a minute", happened.step, happened.recovery_s, happened.note)


def killed_in_a_save(scene: Scene, before: int) -> Happened:
    """The writer is stopped while a checkpoint is half written, looked at, and killed."""
    run_dir, patience_s = scene.job.run_dir, scene.job.patience_s
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        writer = scene.the_writer()
        partial = _half_written(run_dir, until)
        with contextlib.suppress(ProcessLookupError):  # replaced meanwhile: the next one is met
            os.kill(writer.pid, signal.SIGSTOP)
        if partial is not None and partial.exists():
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(writer.pid, signal.SIGCONT)  # it was faster; wait for the next one
    else:
        raise AssertionError(f"no save could be met half way in {patience_s:.0f} s")
    whole, reasons = find_checkpoint(run_dir)
    assert reasons == []  # nobody takes the half one for a checkpoint
    found = sorted(path.name for path in partial.iterdir()) if partial.exists() else []
    before = scene.job.step
    kill(writer)
    assert partial.exists()
    recovery = scene.trained_on(before)
    scene.job.until(lambda: not partial.exists(), "clean-up of the half checkpoint")
    return Happened(
        "killed in a save", before, recovery, f"{partial.name} had {found}; {_name(whole)} stayed whole"
    )


def shards_away(scene: Scene, before: int) -> Happened:
    """The server of the shards is down while a node is replaced, whose processes have to open shards anew."""
    assert scene.server is not None
    scene.the_writer()
    scene.server.stop()
    try:
        scene.cluster.lose_node()
        scene.cluster.add_node()
        scene.job.until(lambda: len(scene.cluster.workers()) == 2, "workers that wait for shards")
        before = scene.standing_still()  # what the small cache held may still be trained on
        passed = scene.some_seconds(0, 10)
        assert scene.job.step == before, "steps were taken while there was nothing to read"
    finally:
        scene.server.start()
    return Happened("shards away", before, scene.trained_on(before), f"for {passed:.1f} s after all stood still")


def workers_changed(scene: Scene, before: int) -> Happened:
    """The job is killed and submitted again with another number of workers."""
    scene.job.kill_driver()
    scene.workers = 3 - scene.workers
    scene.job.submit(f"workers={scene.workers}")
    before, recovery = scene.started_anew(scene.workers)
    return Happened("workers changed", before, recovery, f"to {scene.workers}")


def node_lost_and_back(scene: Scene, before: int) -> Happened:
    """A range of workers loses a node, goes on with one worker, and takes the second again when a node joins."""
    scene.the_writer()
    began = time.monotonic()
    scene.cluster.lose_node()
    before = scene.job.step  # now nobody takes another one
    scene.trained_on(before)
    smaller = time.monotonic() - began
    assert len(scene.cluster.workers()) == 1
    began = time.monotonic()
    scene.cluster.add_node()
    scene.job.until(lambda: len(scene.cluster.workers()) == 2, "second worker")
    scene.trained_on(scene.job.step)
    return Happened("node lost and back", before, smaller,
                    f"on one worker; two again {time.monotonic() - began:.1f} s after a node joined")  # fmt: skip


Event = Callable[[Scene, int], Happened]
SAME_WORKERS: dict[str, Event] = {
    "worker killed": worker_killed, "node replaced": node_replaced, "driver killed": driver_killed,
    "submitted twice": submitted_twice, "disk full": disk_full, "storage away": storage_away,
    "storage away a minute": storage_away_a_minute, "killed in a save": killed_in_a_save,
    "shards away": shards_away,
}  # fmt: skip
"""After these the losses equal the undisturbed run's bit for bit."""
ANY_WORKERS: dict[str, Event] = {"workers changed": workers_changed, "node lost and back": node_lost_and_back}
"""After these the samples do."""


def _half_written(run_dir: Path, until: float) -> Path | None:
    while time.monotonic() < until:
        if found := next(run_dir.glob(".step-*.partial"), None):
            return found
    return None


def _problems(run_dir: Path) -> int:
    path = run_dir / PROBLEMS
    return len(path.read_text().splitlines()) if path.exists() else 0


def _name(folder: Path | None) -> str:
    return folder.name if folder else "nothing"
