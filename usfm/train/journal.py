"""The metrics of a run: one JSON line per step and the same as TensorBoard scalars."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

__all__ = ["Journal", "append_row", "last_row", "read_journal"]

TAIL_BYTES = 1 << 20  # longer than any row


class Journal:
    """Appends to `metrics.jsonl` and `tensorboard/` of a run. A resumed run drops the lines that it will redo."""

    def __init__(self, run_dir: Path, resume_step: int = 0, writes: bool = True) -> None:
        """Open the journal; use it in a `with` block.

        Args:
            run_dir: folder of the run.
            resume_step: lines of later steps are dropped first.
            writes: False on all workers but one, where every call does nothing.
        """
        self._writes = writes
        if not writes:
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        kept = [json.dumps(row) for row in read_journal(run_dir) if row["step"] <= resume_step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One row; scalars also go to TensorBoard, nested mappings as `name/key`."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                for key, scalar in value.items():
                    self._board.add_scalar(f"{name}/{key}", scalar, step)
            elif isinstance(value, int | float):
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()
            self._board.close()


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one JSON line to a file of a run; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def last_row(run_dir: Path) -> dict[str, Any] | None:
    """The newest whole row, without reading the rows before it; None where there is none yet."""
    path = run_dir / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            whole = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    except FileNotFoundError:
        return None
    return json.loads(whole) if whole else None


def read_journal(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The rows written so far; a half-written last line is left out."""
    try:
        text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
