"""JSON lines that survive a storage that is full or away for a while: rows wait in memory and lose no place."""

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from usfm.train.durable import sync

__all__ = ["TAIL_BYTES", "RowFile", "rows_up_to"]

log = logging.getLogger(__name__)
TAIL_BYTES = 1 << 20  # longer than any row


class RowFile:
    """Appends JSON lines to one file; it must be the only writer of that file.

    A row that cannot be written is kept, and written before the next one once the storage answers again. A line of
    which only a part reached the disk is cut off and written anew, so readers never meet a torn line between rows.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None, make_folder: bool = False) -> None:
        """Prepare; the file is opened by the first row or `flush`, which may find its storage away.

        Args:
            path: the file.
            keep_bytes: what stays of the file: so many bytes, which end with a line; None = all whole lines.
            make_folder: make the file's folder, not its parents, where it is missing; else its storage is away.
        """
        self.path, self._make_folder = path, make_folder
        self._lock = threading.Lock()
        self._size = keep_bytes  # of the whole lines that are known to be written; None = not known yet
        self._opened = False
        self._waiting: list[str] = []
        self._failing = False

    @property
    def unwritten(self) -> list[dict[str, Any]]:
        """Rows that are in memory alone, oldest first."""
        with self._lock:
            return [json.loads(line) for line in self._waiting]

    def append(self, row: Mapping[str, Any]) -> bool:
        """Write one row behind all earlier ones; False where the storage did not take it (it is tried again)."""
        with self._lock:
            self._waiting.append(json.dumps(row))
        return self.flush()

    def flush(self, to_disk: bool = False) -> bool:
        """Write what waits; False where the storage did not take it.

        Args:
            to_disk: also wait until the disk has it, not the system's memory alone.
        """
        with self._lock:
            try:
                self._write("".join(line + "\n" for line in self._waiting).encode())
                self._waiting.clear()
                if to_disk:
                    sync(self.path)
            except OSError as error:
                if not self._failing:
                    log.warning("%s cannot be written: %s; rows wait in memory", self.path, error)
                self._failing = True
                return False
            if self._failing:
                log.warning("%s is written again", self.path)
            self._failing = False
            return True

    def _write(self, data: bytes) -> None:
        """Cut the file to its whole lines and write behind them."""
        if self._make_folder:
            self.path.parent.mkdir(exist_ok=True)
        # after the first time a file that is missing is a storage that is away: it is not made anew
        handle = os.open(self.path, os.O_RDWR if self._opened else os.O_RDWR | os.O_CREAT, 0o644)
        try:
            there = os.fstat(handle).st_size
            if self._size is None:
                self._size = _whole_lines(handle, there)
            if there < self._size:
                raise OSError(f"it has {there} bytes, and {self._size} were written")
            if there > self._size:
                os.ftruncate(handle, self._size)
            self._opened = True
            os.lseek(handle, self._size, os.SEEK_SET)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
            self._size += len(data)
        finally:
            os.close(handle)


def rows_up_to(path: Path, step: int) -> tuple[int | None, int]:
    """Where a file of rows with increasing steps has to be cut to go on after a step.

    Args:
        path: the file.
        step: the last one whose rows stay.

    Returns:
        Bytes of these rows, None where there is no file: it may be away, and must not be cut to nothing when it is
        back. Then the last of these steps, 0 where there is none.
    """
    size, last = 0, 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or (number := json.loads(line)["step"]) > step:
                    break
                size, last = size + len(line), number
    except FileNotFoundError:
        return None, 0
    return size, last


def _whole_lines(handle: int, size: int) -> int:
    """Bytes of a file up to the end of its last whole line; a killed writer may have left half of one."""
    start = max(0, size - TAIL_BYTES)
    return start + os.pread(handle, size - start, start).rfind(b"\n") + 1
