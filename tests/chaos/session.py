"""A disturbed run beside an undisturbed one: the same command, the same samples, and events at random steps."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from chaos.events import Happened, Scene
from chaos.local_cluster import LocalCluster
from chaos.storage import RunStorage, ShardServer
from chaos.watched_job import WatchedJob, loss_stream, sample_stream, settings

__all__ = ["ChaosSession"]

FIRST_STEP, APART = 8, (6, 18)
"""No event before the first checkpoint; steps between two events."""


class ChaosSession:
    """One cluster, one storage, one undisturbed run, and any number of disturbed ones."""

    def __init__(
        self, folder: Path, cluster: LocalCluster, storage: RunStorage, server: ShardServer, patience_s: float
    ) -> None:
        self.folder, self.cluster, self.storage, self.server = folder, cluster, storage, server
        self.patience_s = patience_s

    @classmethod
    @contextmanager
    def open(cls, folder: Path, shards: Path, patience_s: float) -> "Iterator[ChaosSession]":
        """Start the cluster, mount the storage of runs, serve the shards; all of it goes at the end.

        Args:
            folder: for all that is written.
            shards: folder of them.
            patience_s: how long anything is waited for.
        """
        with ExitStack() as open_things:
            storage = open_things.enter_context(RunStorage(folder / "storage"))
            server = ShardServer(shards)
            open_things.callback(server.stop)
            cluster = LocalCluster(nodes=2)
            open_things.callback(cluster.shutdown)
            yield cls(folder, cluster, storage, server, patience_s)

    def job(self, name: str, steps: int, paced: bool = True) -> WatchedJob:
        """A job whose run lies on the storage; not submitted yet."""
        config = settings(self.server.url, self.storage.folder / name, steps)
        # hardly room for a shard: processes that start have to fetch theirs
        config["data"]["cache"] = {"folder": str(self.folder / "cache"), "limit_gb": 1e-5}
        return WatchedJob(self.cluster.address, config, self.folder / f"{name}.log", self.patience_s, paced)

    def undisturbed(self, steps: int) -> Path:
        """Run the job without events, at full speed; returns its folder."""
        job = self.job("undisturbed", steps, paced=False)
        try:
            job.submit()
            job.finish()
        finally:
            job.clear_away()
        return job.run_dir

    def disturbed(
        self,
        name: str,
        steps: int,
        kinds: Sequence[str],
        seed: int,
        reference: Path,
        *overrides: str,
        same_losses: bool = True,
        to_the_end: bool = True,
    ) -> Iterator[Happened]:
        """Run the job with events in the order given, at steps drawn from `seed`; compare after each.

        Args:
            name: of the run.
            steps: its length; that of the reference, or less where only samples are compared.
            kinds: events.
            seed: of their times.
            reference: folder of the undisturbed run.
            overrides: of the job's command.
            same_losses: compare every value; else what decides the samples.
            to_the_end: also let it finish; else it is killed after the last event.

        Raises:
            AssertionError: the run did not get over an event, or its stream differs from the undisturbed one.
        """  # fmt: skip
        dice = np.random.default_rng(seed)
        job, stream = self.job(name, steps), loss_stream if same_losses else sample_stream
        expected = stream(reference)[:steps]
        scene = Scene(self.cluster, self.storage, job, dice, self.server)
        try:
            job.submit(*overrides)
            step = FIRST_STEP
            for kind in kinds:
                step += int(dice.integers(*APART))
                job.until(lambda at=step: job.step >= at, f"step {step} before {kind!r}")
                happened = scene.happen(kind)
                got = stream(job.run_dir)
                assert got == expected[: len(got)], (
                    f"after {kind!r} the streams differ: {first_difference(got, expected)}"
                )
                yield happened
                step = job.step
            if not to_the_end:
                return
            job.finish()
            got = stream(job.run_dir)
        finally:
            job.clear_away()
            self.cluster.clear_away_workers()
        assert got == expected, f"at the end the streams differ: {first_difference(got, expected)}"


def first_difference(got: list, expected: list) -> str:
    """Where two streams part, for a person."""
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one != other:
            return f"row {number}: got {one}, expected {other}"
    return f"{len(got)} rows, expected {len(expected)}"
