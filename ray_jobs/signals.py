"""Signal handlers that Ray installs while it runs something, and leaves behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["handlers_kept"]

CAUGHT = (signal.SIGINT, signal.SIGUSR1)
"""Signals that end a run of Tune; Ray Train catches the first. A handler that stays swallows a later Ctrl-C, or
ends the process with status 0."""


@contextmanager
def handlers_kept() -> Iterator[dict[int, Any]]:
    """Put the handlers of these signals back after what is done inside, whatever comes of it.

    Yields:
        signal -> the handler that was found in its place, filled at the end; stays empty outside the main thread,
        where there are none to change. A signal that still has its handler is not touched.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in CAUGHT if main}
    found: dict[int, Any] = {}
    try:
        yield found
    finally:
        for number, handler in before.items():
            found[number] = signal.getsignal(number)
            if found[number] is not handler and handler is not None:  # None = one that Python did not install
                signal.signal(number, handler)
