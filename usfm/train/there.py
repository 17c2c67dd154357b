"""A run's folder whose storage is away looks like a run that has nothing yet: how to tell them apart."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from usfm.data.patience import patiently
from usfm.errors import CheckpointError

__all__ = ["while_there"]

CONFIG = "config.yaml"
T = TypeVar("T")


def while_there(run_dir: Path, look: Callable[[], T], opened: bool = True) -> T:
    """Look into the folder of a run that was opened (`open_run`), and again until its storage was there meanwhile.

    Args:
        run_dir: it holds config.yaml, unless its storage is away.
        look: may be called several times; what it finds or misses counts if config.yaml is there before and after.
        opened: False = the run is not one that was opened; look once.

    Raises:
        EnvironmentProblem: config.yaml was not there for two minutes.
    """

    def there() -> None:
        if not (run_dir / CONFIG).exists():
            raise OSError(f"its {CONFIG} is not there; is the storage of runs mounted on this node?")

    def action() -> T:
        there()
        try:
            found = look()
        except (CheckpointError, OSError):
            there()
            raise
        there()
        return found

    return patiently(action, str(run_dir)) if opened else look()
