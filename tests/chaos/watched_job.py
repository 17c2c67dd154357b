"""A pre-training job as a user submits it: a process with a command line, which can be killed and run again."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from chaos.paced import PACE_S

from usfm.train.checkpoint import find_checkpoint
from usfm.train.journal import last_row, read_journal

__all__ = ["WatchedJob", "loss_stream", "sample_stream", "settings"]

ROOT = Path(__file__).resolve().parents[2]
TIMING = ("images_per_s", "data_wait", "observe_s")
POLL_S = 0.02


def settings(shards: str, run_dir: Path, steps: int) -> dict[str, Any]:
    """A small run on two workers, each with one micro-batch of a step of about a tenth of a second."""
    return {
        "run_dir": str(run_dir), "seed": 5,
        "data": {"shards": shards, "canvas_px": 64, "sampling": {"chunk_size": 24}},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
        "objective": {"spatial_mask": {"unit_px": 8}},
        "batch": {"global_size": 32, "micro_size": 16}, "epochs": 1, "epoch_samples": 32 * steps,
        "optim": {"lr": 0.01}, "checkpoint_every": 5, "precision": "fp32",
        "workers": 2, "cpus_per_worker": 1.6, "max_failures": -1, "resize_every_s": 3.0,
        "observe": {"every": 40, "panels": 1, "probe": None},
    }  # fmt: skip


def loss_stream(run_dir: Path) -> list[dict[str, Any]]:
    """Every value of every step in order, but for times."""
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_journal(run_dir)]


def sample_stream(run_dir: Path) -> list[tuple[Any, ...]]:
    """What decides which samples each step had, and their pixels."""
    return [
        (row["step"], row["samples"], row["sample_digest"], row["replaced"], row["organ_count"])
        for row in read_journal(run_dir)
    ]


class WatchedJob:
    """Starts the job and looks at what it writes."""

    def __init__(
        self, address: str, config: dict[str, Any], log: Path, patience_s: float, paced: bool = True
    ) -> None:
        """Prepare.

        Args:
            address: of the cluster.
            config: of the job.
            log: file for what the command prints.
            patience_s: how long anything is waited for.
            paced: steps take at least `PACE_S`.
        """
        self.run_dir, self._log, self.patience_s = Path(config["run_dir"]), log, patience_s
        self._module = "chaos.paced" if paced else "ray_jobs.pretrain"
        self._environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT / "tests")}
        self._recipe = log.with_suffix(".yaml")
        self._recipe.write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None
        self._submitted: list[subprocess.Popen[bytes]] = []

    def submit(self, *overrides: str) -> None:
        """Run the command."""
        command = [sys.executable, "-m", self._module, "--config", str(self._recipe), *overrides]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=self._environment
            )
        self._submitted.append(self._process)

    def kill_driver(self) -> None:
        """SIGKILL to the command."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def submit_beside(self) -> int:
        """Run the command while it runs; returns the exit status of the older one when it has ended."""
        older = self._process
        self.submit()
        assert older is not None
        return older.wait(self.patience_s)

    def clear_away(self) -> None:
        """Kill every command that was submitted and still runs."""
        for process in self._submitted:
            process.kill()
            process.wait(10)

    @property
    def step(self) -> int:
        """Of the newest row; 0 where there is none, or the folder is away."""
        row = last_row(self.run_dir)
        return int(row["step"]) if row else 0

    @property
    def step_s(self) -> float:
        """How long a step takes now."""
        row = last_row(self.run_dir)
        assert row is not None
        return max(PACE_S, row["samples"] / row["step"] / row["images_per_s"])

    @property
    def saved(self) -> int:
        """Step of the newest whole checkpoint; 0 where there is none."""
        found = find_checkpoint(self.run_dir)[0]
        return int(found.name.removeprefix("step-")) if found else 0

    def until(self, condition: Callable[[], bool], what: str, running: bool = True) -> float:
        """Wait; returns the seconds it took.

        Args:
            condition: asked fifty times a second.
            what: is waited for, for the message.
            running: the job must not end meanwhile.

        Raises:
            AssertionError: the job ended first, or time is up; with the end of its log.
        """
        began, pause = time.monotonic(), threading.Event()
        while not condition():
            assert self._process is not None
            if running and (ended := self._process.poll()) is not None and not condition():
                raise AssertionError(f"the job ended with {ended} before {what}:\n{self.output()[-3000:]}")
            if time.monotonic() - began > self.patience_s:
                raise AssertionError(f"no {what} in {self.patience_s:.0f} s:\n{self.output()[-3000:]}")
            pause.wait(POLL_S)
        return time.monotonic() - began

    def finish(self) -> None:
        """Wait for the job's good end; how long its steps take is known, beside them it may take `patience_s`."""
        assert self._process is not None
        job = self._process
        while job.poll() is None:
            before = self.step
            self.until(lambda at=before: self.step > at or job.poll() is not None, f"step after {before}", False)
        assert job.returncode == 0, self.output()[-3000:]

    def output(self) -> str:
        """All that was printed."""
        return self._log.read_text(errors="replace")
