"""The metrics of a run: one JSON line per step, and the same to TensorBoard and to trackers."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.patience import patiently
from usfm.train.board import Board
from usfm.train.durable import LEFTOVER
from usfm.train.row_file import TAIL_BYTES, RowFile, rows_up_to
from usfm.train.there import while_there
from usfm.train.trackers import Tracker

__all__ = ["Journal", "append_row", "last_row", "read_journal", "rows_until", "scalars_of"]

JOURNAL = "metrics.jsonl"
END_PATIENCE_S = 120.0


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row by name; nested mappings as `name/key`."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{key}": scalar for key, scalar in value.items()}
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


class Journal:
    """Appends to `metrics.jsonl` and `tensorboard/` of a run. A resumed run drops the lines that it will redo.

    A storage that is full or away does not stop the run: rows wait in memory until it takes them (see `RowFile`).
    """

    def __init__(
        self,
        run_dir: Path,
        resume_step: int = 0,
        writes: bool = True,
        unwritten: Iterable[Mapping[str, Any]] = (),
        trackers: Sequence[Tracker] = (),
        opened: bool = False,
    ) -> None:
        """Open the journal; use it in a `with` block.

        Args:
            run_dir: folder of the run.
            resume_step: lines of later steps are dropped first.
            writes: False on all workers but one, where every call does nothing.
            unwritten: rows up to `resume_step` that the checkpoint kept because the file did not take them.
            trackers: get every row and picture too; closed with the journal.
            opened: the folder was made with `open_run`; if it looks otherwise its storage is waited for.
        """
        self._writes, self._trackers = writes, trackers
        if not writes:
            return
        if not opened:
            run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        path = run_dir / JOURNAL
        keep_bytes, last = while_there(run_dir, lambda: rows_up_to(path, resume_step), opened)
        self._rows = RowFile(path, keep_bytes)
        self._rows.flush()
        for row in unwritten:
            if last < row["step"] <= resume_step:
                self._rows.append(row)
        self._board = Board(run_dir / "tensorboard", resume_step + 1, partial(self._scalars, resume_step + 1))

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One row; its scalars also go to TensorBoard and trackers."""
        if not self._writes:
            return
        written, scalars = self._rows.append({"step": step, **metrics}), scalars_of(metrics)
        self._board.scalars(step, scalars, storage_answers=written)
        for tracker in self._trackers:
            tracker.scalars(step, scalars)

    def picture(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """One (H, W, 3) image: `NAME/step-XXXXXXXX.png` in the run's folder, TensorBoard and trackers.

        Raises:
            OSError: the run's folder does not take it; the others have it.
        """
        if not self._writes:
            return
        self._board.picture(step, name, pixels)
        for tracker in self._trackers:
            tracker.picture(step, name, pixels)
        folder = self._run_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".step-{step:08d}.png{LEFTOVER}"
        partial.write_bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
        os.replace(partial, folder / f"step-{step:08d}.png")

    def settle(self) -> list[dict[str, Any]]:
        """Put what was written onto the disk, for a checkpoint that will stand behind it.

        Returns:
            Rows that the file did not take so far; the checkpoint has to keep them.
        """
        if not self._writes:
            return []
        self._rows.flush(to_disk=True)
        return self._rows.unwritten

    def _scalars(self, first: int) -> Iterator[tuple[int, dict[str, float]]]:
        """What was written from a step on."""
        for row in read_journal(self._run_dir):
            if (step := row.pop("step")) >= first:
                yield step, scalars_of(row)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close; a run that ends well waits for a storage that does not take the last rows.

        Raises:
            EnvironmentProblem: it did not take them for `END_PATIENCE_S`.
        """
        if not self._writes:
            return
        self._board.close()
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)
        if not self._rows.flush() and kind is None:
            patiently(
                self._flush_or_raise, f"{self._run_dir / JOURNAL}, which lacks the last rows,", END_PATIENCE_S
            )

    def _flush_or_raise(self) -> None:
        if not self._rows.flush():
            raise OSError("it does not take them")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line to a file of a run; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def last_row(run_dir: Path) -> dict[str, Any] | None:
    """The newest whole row, without reading the rows before it; None while there is none or the storage is away."""
    path = run_dir / JOURNAL
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    except OSError:
        return None
    return json.loads(whole) if whole else None


def read_journal(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The rows written so far; a half-written last line is left out."""
    try:
        file = (run_dir / JOURNAL).open(encoding="utf-8")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def rows_until(
    run_dir: Path, step: int, unwritten: Iterable[Mapping[str, Any]] = ()
) -> Iterator[Mapping[str, Any]]:
    """The rows of the steps up to one, each once, in order.

    Args:
        run_dir: folder of the run.
        step: of a checkpoint, for example; later rows are left out.
        unwritten: rows that the checkpoint kept because the file may lack them.
    """
    last = 0
    for row in chain(read_journal(run_dir), unwritten):
        if last < row["step"] <= step:
            yield row
            last = row["step"]
