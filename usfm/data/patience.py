"""Waiting for a storage that is away for a while, which must cost neither a run nor a good file."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from usfm.errors import EnvironmentProblem, UsfmError

__all__ = ["PATIENCE_S", "patiently"]

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE_S = 120.0
FINAL = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    UsfmError,
    TypeError,
    ValueError,
)
"""Answers, and mistakes of ours: asking again would not help."""


def patiently(action: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Ask a storage, again and ever more slowly while it does not answer.

    What says that it does not answer differs from client to client, so everything does that is not in `FINAL`.

    Raises:
        EnvironmentProblem: the storage did not answer for `patience_s`.
    """
    deadline, pause = time.monotonic() + patience_s, 0.5
    while True:
        try:
            return action()
        except Exception as error:
            if _final(error):
                raise
            if time.monotonic() + pause > deadline:
                raise EnvironmentProblem(
                    f"{what} could not be read for {patience_s:.0f} s: {error}; check the storage and start again"
                ) from error
            log.warning("%s: %s; trying again in %.1f s", what, error, pause)
            time.sleep(pause)
            pause = min(2 * pause, 15.0)


def _final(error: Exception) -> bool:
    """Whether asking again is of no use."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None:
        # fsspec's HTTP says "not found" of a refused connection and of a server's own fault too
        away = isinstance(cause, OSError) and not isinstance(cause, FINAL)
        return not away and getattr(cause, "status", 404) < 500
    return isinstance(error, FINAL)
