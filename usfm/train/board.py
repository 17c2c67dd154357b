"""TensorBoard's file, which may fail without stopping a run: it can be made again from the journal."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

__all__ = ["Board"]

PAUSE_S = 15.0  # between attempts to open a new file, each of which writes all rows again
log = logging.getLogger(__name__)


class Board:
    """Writes scalars. A file whose storage failed is given up; a new one starts with all rows of the journal."""

    def __init__(
        self, folder: Path, first: int, rows: Callable[[], Iterable[tuple[int, Mapping[str, float]]]]
    ) -> None:
        """Open a file.

        Args:
            folder: for event files.
            first: the first step of this process; later ones of an earlier process are dropped from view.
            rows: all steps and scalars that the journal has from `first` on.
        """
        self._folder, self._first, self._rows = folder, first, rows
        self._writer: SummaryWriter | None = None
        self._open()

    def scalars(self, step: int, scalars: Mapping[str, float], storage_answers: bool = True) -> None:
        """Write the scalars of one step, which the journal already has.

        Args:
            step: global step.
            scalars: by name.
            storage_answers: whether a file that failed is worth another attempt.
        """
        if self._writer is not None:
            self._guarded(lambda writer: _add(writer, step, scalars))
        elif storage_answers and time.monotonic() > self._again:
            self._open()

    def picture(self, step: int, name: str, pixels: npt.NDArray[np.uint8]) -> None:
        """Write one (H, W, 3) image; a file that failed goes without it."""
        self._guarded(lambda writer: writer.add_image(name, pixels, step, dataformats="HWC"))

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    def _open(self) -> None:
        self._again = time.monotonic() + PAUSE_S
        try:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._first)
        except OSError as error:
            log.warning("no TensorBoard file: %s; it is tried again", error)
            return
        for step, scalars in self._rows():
            self._guarded(lambda writer, n=step, s=scalars: _add(writer, n, s))  # type: ignore[misc]

    def _guarded(self, write: Callable[[SummaryWriter], None]) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:  # of its own thread, which has ended with it
            log.warning("the TensorBoard file cannot be written: %s; another one is tried", error)
            self.close()


def _add(writer: SummaryWriter, step: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
