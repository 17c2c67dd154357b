"""The quiet console: one progress line per stage, and a closing table of what was made and where."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Console", "Stage", "following"]

FOLLOW_EVERY_S = 0.5
LOG_EVERY_S = 15.0


class Stage:
    """One running stage; `advance` counts, `note` changes the text at the end of the line."""

    def __init__(self, progress: Progress, task: TaskID, unit: str, log: RichConsole | None) -> None:
        self._progress, self._task, self._unit, self._log = progress, task, unit, log
        self._start = self._logged = time.monotonic()
        self._note = ""
        self._before = 0
        self.count = 0

    def advance(self, n: int = 1) -> None:
        """Count n more units."""
        self.to(self.count + n)

    def resume(self, count: int) -> None:
        """Start from what an earlier run has done; the rate counts only what is new."""
        self._before = count
        self.to(count)

    def to(self, count: int) -> None:
        """Set the absolute count."""
        self.count = count
        rate = f"{self.rate:,.1f} {self._unit}/s"
        self._progress.update(self._task, completed=count, rate=rate)
        if self._log is not None and time.monotonic() - self._logged > LOG_EVERY_S:
            self._logged = time.monotonic()
            task = self._progress.tasks[self._task]
            left = f", {task.time_remaining:.0f} s left" if task.time_remaining else ""
            self._log.print(f"{task.description:<12} {count}/{task.total} {rate}{left} {self._note}", markup=False)

    def note(self, text: str) -> None:
        """Show a short text behind the rate (loss, trial, file)."""
        self._note = text
        self._progress.update(self._task, note=text)

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the stage began."""
        return (self.count - self._before) / max(self.seconds, 1e-9)


@contextlib.contextmanager
def following(update: Callable[[], None]) -> Iterator[None]:
    """Call `update` twice a second from a thread while the block runs, and once at its end."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(FOLLOW_EVERY_S):
            update()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        update()


class Console:
    """What a job says: stages, notes, warnings, a table at the end. Everything goes to standard output."""

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose
        self._rich = RichConsole(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One plain line."""
        self._rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        """One line that stands out."""
        self._rich.print(f"! {text}", style="yellow", markup=False)

    def error(self, text: str) -> None:
        """What went wrong and what to do."""
        self._rich.print(f"error: {text}", style="red", markup=False)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "items") -> Iterator[Stage]:
        """A progress line with count, rate and time left; one closing line stays behind."""
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        live = self._rich.is_terminal  # a log file gets a line now and then instead
        progress = Progress(*columns, console=self._rich, transient=True, disable=not live)
        with progress:
            task = progress.add_task(name, total=total, rate="", note="")
            stage = Stage(progress, task, unit, None if live else self._rich)
            yield stage
        if not stage.count:
            self.say(f"{name:<12} {stage.seconds:.1f} s")
            return
        of_total = f" of {total}" if total is not None and stage.count != total else ""
        rate = f"({stage.rate:,.1f} {unit}/s)" if stage.seconds > 0.5 else ""
        self.say(f"{name:<12} {stage.count}{of_total} {unit} in {stage.seconds:.1f} s {rate}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A closing table."""
        table = Table(*columns, title=title, title_justify="left", title_style="bold")
        for row in rows:
            table.add_row(*map(str, row))
        self._rich.print(table)
