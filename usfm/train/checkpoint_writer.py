"""Who saves: a thread writes snapshots while training goes on; they appear whole under their name, old ones go.

A storage that is full or away costs a checkpoint, never the run: the checkpoint before stays, the problem is
written down, the save is tried again ever more slowly, and the next one that is due takes its place. Only the last
checkpoint of a run has to succeed.
"""

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from usfm.data.patience import PATIENCE_S
from usfm.errors import CheckpointError
from usfm.train.checkpoint import (
    Snapshot,
    checkpoint_folder,
    checkpoints,
    find_checkpoint,
    is_whole,
    take_snapshot,
    write_snapshot,
)
from usfm.train.durable import LEFTOVER, publish_folder, remove_folder
from usfm.train.row_file import RowFile

__all__ = ["PROBLEMS", "CheckpointWriter"]

PROBLEMS = "checkpoint_problems.jsonl"
"""File of a run that lists saves that failed and checkpoints that were passed over."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
log = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves checkpoints of one run; use it in a `with` block, whose end waits for the last save.

    At most one save is written and one snapshot waits. While the storage takes them, training waits for the one
    before; while it does not, the newest snapshot replaces the one that fails, and training goes on.
    """

    def __init__(self, run_dir: Path, keep: int, writes: bool = True, patience_s: float = PATIENCE_S) -> None:
        """Clear what killed saves left behind, and start the thread.

        Args:
            run_dir: folder of the run.
            keep: how many whole checkpoints stay.
            writes: False on all workers but one. All of them call `save`: weights may have to be gathered.
            patience_s: how long the last checkpoint of the run is tried.
        """
        self.run_dir, self.keep, self.writes, self.patience_s = run_dir, keep, writes, patience_s
        self._changed = threading.Condition()
        self._due: Snapshot | None = None  # the newest that is not written
        self._failing: Exception | None = None
        self._ends: float | None = None  # when patience ends; None = the run goes on
        if writes:
            self.problems = RowFile(run_dir / PROBLEMS)
            for leftover in run_dir.glob(f".step-*{LEFTOVER}"):
                shutil.rmtree(leftover, ignore_errors=True)
            for reason in find_checkpoint(run_dir)[1]:
                self._note(None, f"passed over: {reason}")
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Save the state after `step` steps; returns when it is copied, not when it is written."""
        snapshot = take_snapshot(step, model, optimizer, state)  # on every worker: it may gather
        if not self.writes:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._due is None or self._failing is not None)
            if self._due is not None:
                self._note(self._due.step, f"given up for step {step}: {self._failing}")
            self._due, self._failing = snapshot, None
            self._changed.notify_all()

    def close(self, patient: bool = True) -> None:
        """Wait for the save in flight.

        Args:
            patient: try again while it fails; else one more attempt is all.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        if not self.writes or not self._thread.is_alive():
            return
        with self._changed:
            self._ends = time.monotonic() + (self.patience_s if patient else 0.0)
            self._changed.notify_all()
        self._thread.join()
        if self._due is not None:
            raise CheckpointError(
                f"the last checkpoint (step {self._due.step}) could not be written to {self.run_dir} for "
                f"{self.patience_s:.0f} s: {self._failing}; make room or mend the storage and start again"
            )

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due is not None or self._ends is not None)
                if (snapshot := self._due) is None:
                    return
            failed: Exception | None = None
            try:
                self._write(snapshot)
            # what a full or missing storage raises differs: OSError, RuntimeError (torch), SafetensorError
            except Exception as error:
                failed = error
                self._note(snapshot.step, f"not written: {error}")
            with self._changed:
                if self._due is snapshot:
                    self._due, self._failing = (snapshot, failed) if failed else (None, None)
                    self._changed.notify_all()
                if failed is None:
                    pause = FIRST_PAUSE_S
                elif self._ends is not None and time.monotonic() > self._ends:
                    return
                else:
                    self._rest(snapshot, pause)
                    pause = min(2 * pause, LONGEST_PAUSE_S)

    def _rest(self, failing: Snapshot, pause: float) -> None:
        """Pause before the next attempt, until a newer snapshot comes, or until the run ends."""
        ends = self._ends

        def news() -> bool:
            return self._due is not failing or self._ends != ends

        self._changed.wait_for(news, timeout=pause if ends is None else min(pause, ends - time.monotonic() + 0.01))

    def _write(self, snapshot: Snapshot) -> None:
        target = checkpoint_folder(self.run_dir, snapshot.step)
        partial = self.run_dir / f".{target.name}{LEFTOVER}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write_snapshot(partial, snapshot)
            publish_folder(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise
        with contextlib.suppress(OSError):  # room is not made now; the next save tries again
            self._retire()
        if self.problems.unwritten:
            self.problems.flush()

    def _retire(self) -> None:
        """Remove all that is older than the newest `keep` whole checkpoints; a damaged one does not count."""
        whole = 0
        for folder in checkpoints(self.run_dir):
            if whole >= self.keep:
                remove_folder(folder)
            elif is_whole(folder):
                whole += 1

    def _note(self, step: int | None, problem: str) -> None:
        log.warning("checkpoint%s %s", "" if step is None else f" of step {step}", problem)
        self.problems.append({"time": time.time(), "step": step, "problem": problem})

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        # the run has failed for another reason, which must be what is heard
        with contextlib.suppress(CheckpointError):
            self.close(patient=False)
