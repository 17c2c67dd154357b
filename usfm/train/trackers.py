"""Experiment trackers: MLflow and Weights & Biases. A tracker never stops or slows a run.

Rows and pictures go into a queue; one thread per tracker sends them. A server that does not answer is said once and
tried again. Dropped is an entry that failed `TRIES` times, so that one which the server refuses does not hold up
the others, and what does not fit into the queue, the oldest first. `metrics.jsonl` has it all.
"""

import importlib.util
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from usfm.errors import ConfigError
from usfm.train.durable import write_text

__all__ = ["Client", "Tracker", "TrackerName", "open_trackers", "require_trackers", "wanted_trackers"]

TrackerName = Literal["none", "mlflow", "wandb"]
Pixels = npt.NDArray[np.uint8]
QUEUE = 2_000
RETRY_S = 15.0
TRIES = 5
CLOSE_S = 60.0
log = logging.getLogger(__name__)


class Client(Protocol):
    """A tracker's own calls; any of them may block or raise anything."""

    def start(self, run_dir: Path, config: Mapping[str, Any], run_id: str) -> str:
        """Begin a run, or go on with `run_id` ("" = a new one); returns its id.

        Called again after it raised, with the same arguments; a run that it had made by then is gone on with.
        """

    def describe(self, config: Mapping[str, Any]) -> None:
        """Called once for a new run, after its id is kept: what `start` did not say of the config."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """One (H, W, 3) image."""

    def close(self, failed: bool) -> None:
        """Everything has been sent; `failed` = the run ended with an error."""


def wanted_trackers(names: TrackerName | Sequence[TrackerName]) -> list[TrackerName]:
    """The config key as a list without "none"."""
    listed = [names] if isinstance(names, str) else list(names)
    return [name for name in dict.fromkeys(listed) if name != "none"]


def require_trackers(names: TrackerName | Sequence[TrackerName]) -> None:
    """Check that the packages are there, without importing them.

    Raises:
        ConfigError: one is missing.
    """
    for name in wanted_trackers(names):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracker: {name} needs the package {name}, which is not installed; "
                f'pip install "usfm-ray[{name}]", or set tracker=none'
            )


def open_trackers(
    names: TrackerName | Sequence[TrackerName], run_dir: Path, config: Mapping[str, Any]
) -> list["Tracker"]:
    """Start the wanted trackers in the background; see `require_trackers` for missing packages."""
    from usfm.train.tracker_clients import CLIENTS

    return [Tracker(name, CLIENTS[name](), run_dir, config) for name in wanted_trackers(names)]


class Tracker:
    """One tracker behind a queue and a thread."""

    def __init__(self, name: str, client: Client, run_dir: Path, config: Mapping[str, Any]) -> None:
        self.name = name
        self._client, self._run_dir, self._config = client, run_dir, dict(config)
        self._todo: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._closing, self._dropped, self._warned = threading.Event(), 0, False
        self._started = self._is_new = self._refused = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._put(self._start)
        self._put(self._describe)
        self._thread.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Queue one row; returns at once."""
        kept = dict(values)
        self._put(lambda: self._client.scalars(step, kept))

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """Queue one image; returns at once."""
        self._put(lambda: self._client.picture(step, name, pixels))

    def close(self, failed: bool = False) -> None:
        """Send what is queued, for at most CLOSE_S seconds; what is left is dropped and said."""
        self._put(lambda: self._client.close(failed))
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(CLOSE_S)
        if (left := len(self._todo) + self._dropped) > 0:
            log.warning("tracker %s: %d entries were not sent; metrics.jsonl has them", self.name, left)

    def _put(self, call: Callable[[], object]) -> None:
        with self._changed:
            if len(self._todo) >= QUEUE:
                # the first one may be on its way; before the start, the first two are start and description
                del self._todo[1 if self._started else 2]
                self._dropped += 1
            self._todo.append(call)
            self._changed.notify()

    def _work(self) -> None:
        failures = 0  # of the first entry
        while True:
            with self._changed:
                while not self._todo and not self._closing.is_set():
                    self._changed.wait()
                if not self._todo:
                    return
                call = self._todo[0]
            try:
                call()
            except Exception as error:  # whatever a client of somebody else's server raises
                if not self._warned:
                    log.warning(
                        "tracker %s: %s: %s; training goes on, and it is tried again", self.name,
                        type(error).__name__, error,
                    )  # fmt: skip
                    self._warned = True
                if self._closing.is_set():
                    return
                failures += 1
                if failures < TRIES or not self._started:  # without a run nothing could be sent
                    self._closing.wait(RETRY_S)
                    continue
                self._drop(error)
            failures = 0
            with self._changed:
                self._todo.popleft()

    def _drop(self, error: Exception) -> None:
        if not self._refused:
            text = "tracker %s: an entry failed %d times and is dropped, as later ones will be: %s: %s"
            log.warning(text, self.name, TRIES, type(error).__name__, error)
            self._refused = True
        self._dropped += 1

    def _start(self) -> None:
        """Begin or go on; the run's folder remembers the tracker's id of the run."""
        path = self._run_dir / "trackers.json"
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found = self._client.start(self._run_dir, self._config, known.get(self.name, ""))
        if known.get(self.name) != found:
            known[self.name] = found
            write_text(path, json.dumps(known, indent=1) + "\n")
            self._is_new = True
        self._started = True

    def _describe(self) -> None:
        if self._is_new:
            self._client.describe(self._config)
