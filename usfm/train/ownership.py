"""Who may write into a run's folder: the newest submission of its job.

A driver that was killed, or a node that was cut off, may leave workers behind that train on for a while. They must
not write between the rows of those that go on with the run. So each submission puts its own mark into the folder,
and so does each start of the workers of a submission; who writes ends when it finds another one.
"""

import logging
import os
import threading
import uuid
from pathlib import Path

from usfm.train.durable import write_text

__all__ = ["claim", "claim_start", "is_owner", "leave_when_taken"]

OWNER = "owner"
"""File of a run that holds the mark of the newest submission."""
START = "owner-start"
"""File of a run that holds the mark of the newest start of its workers."""
LOOK_EVERY_S = 1.0
log = logging.getLogger(__name__)


def claim(run_dir: Path) -> str:
    """Take a run's folder over from whoever had it; returns the new mark."""
    mark = uuid.uuid4().hex
    write_text(run_dir / OWNER, mark)
    return mark


def claim_start(run_dir: Path) -> str:
    """Take a run's folder over from an earlier start of workers, perhaps on a node that was cut off.

    The worker that is going to write calls it, before it looks for a checkpoint; returns the new mark.
    """
    start = uuid.uuid4().hex
    write_text(run_dir / START, start)
    return start


def is_owner(run_dir: Path, mark: str) -> bool:
    """Whether the folder still has a submission's mark; a storage that does not answer is no reason to leave."""
    return _holds(run_dir / OWNER, mark)


def leave_when_taken(run_dir: Path, mark: str, start: str) -> None:
    """End this process, from a thread, within a second or so of somebody else's claim.

    At once and without clean-up: whatever it wrote from now on would be written over another's.

    Args:
        run_dir: folder of the run.
        mark: of this submission.
        start: of this start of its workers.
    """

    def look() -> None:
        while is_owner(run_dir, mark) and _holds(run_dir / START, start):
            pause.wait(LOOK_EVERY_S)
        log.error("%s was taken over by a newer submission or start of the job; this worker ends", run_dir)
        os._exit(1)

    pause = threading.Event()
    threading.Thread(target=look, name="ownership", daemon=True).start()


def _holds(path: Path, mark: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == mark
    except OSError:
        return True
