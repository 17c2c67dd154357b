"""Who may write into a run's folder: the newest submission of its job.

A driver that was killed, or a node that was cut off, may leave workers behind that train on for a while. They must
not write between the rows of the job that was submitted again, so each submission puts its own mark into the
folder, and workers end themselves when they find another one.
"""

import logging
import os
import threading
import uuid
from pathlib import Path

from usfm.train.durable import write_text

__all__ = ["claim", "is_owner", "leave_when_taken"]

OWNER = "owner"
"""File of a run that holds the mark."""
LOOK_EVERY_S = 1.0
log = logging.getLogger(__name__)


def claim(run_dir: Path) -> str:
    """Take a run's folder over from whoever had it; returns the new mark."""
    mark = uuid.uuid4().hex
    write_text(run_dir / OWNER, mark)
    return mark


def is_owner(run_dir: Path, mark: str) -> bool:
    """Whether the folder still has a mark; a storage that does not answer is no reason to leave."""
    try:
        return (run_dir / OWNER).read_text(encoding="utf-8") == mark
    except OSError:
        return True


def leave_when_taken(run_dir: Path, mark: str) -> None:
    """End this process, from a thread, within a second or so of somebody else's claim.

    At once and without clean-up: whatever it wrote from now on would be written over another's.
    """

    def look() -> None:
        while is_owner(run_dir, mark):
            pause.wait(LOOK_EVERY_S)
        log.error("%s was taken over by a newer submission of the job; this worker ends", run_dir)
        os._exit(1)

    pause = threading.Event()
    threading.Thread(target=look, name="ownership", daemon=True).start()
