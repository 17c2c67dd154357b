"""The quiet console: one progress line per stage, and a closing table of what was made and where."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

__all__ = ["Console", "Stage", "clock_time", "following", "rate_text"]

FOLLOW_EVERY_S = 0.5
LOG_EVERY_S = 15.0
LOG_AT_MOST_S = 300.0
RECENT_S = 60.0
"""Time left follows the pace of the last minute, of the last half of the stage if that is longer."""
log = logging.getLogger(__name__)


class Stage:
    """One running stage; `advance` counts, `note` changes the text at the end of the line."""

    def __init__(self, progress: Progress, task: TaskID, unit: str, log: RichConsole | None) -> None:
        self._progress, self._task, self._unit, self._log = progress, task, unit, log
        self._start = self._logged = time.monotonic()
        self._note = self._rate = ""
        self._before = 0
        self._pace: deque[tuple[float, int]] = deque([(self._start, 0)])
        self.count = 0

    def advance(self, n: int = 1) -> None:
        """Count n more units."""
        self.to(self.count + n)

    def resume(self, count: int) -> None:
        """Start from what an earlier run has done; the rate counts only what is new."""
        self._before = count
        self._pace.clear()
        self.to(count)

    def to(self, count: int) -> None:
        """Set the absolute count."""
        now = time.monotonic()
        if self._pace and count < self.count:
            self._pace.clear()  # work was lost and is done again
        self.count = count
        if not self._pace or count > self._pace[-1][1]:
            self._pace.append((now, count))
        while len(self._pace) > 2 and now - self._pace[1][0] > max(RECENT_S, self.seconds / 2):
            self._pace.popleft()
        rate, task = self._rate or rate_text(self.rate, self._unit), self._progress.tasks[self._task]
        left, of = self.left_s, "" if task.total is None else f"/{int(task.total):,}"
        remaining = f"{clock_time(left)} left" if left else ""
        self._progress.update(
            self._task, completed=count, count=f"{count:,}{of}", rate=rate, left=remaining, note=self._note
        )
        pause = min(max(LOG_EVERY_S, self.seconds / 50), LOG_AT_MOST_S)
        if self._log is not None and now - self._logged > pause:
            self._logged = now
            said = (f"{task.description:<12} {count:,}{of} {rate}", remaining, self._note)
            self._log.print("  ".join(filter(None, said)), markup=False)

    def note(self, text: str) -> None:
        """Show a short text behind the rate (loss, trial, file)."""
        self._note = text
        self._progress.update(self._task, note=text)

    def says_rate(self, text: str) -> None:
        """Show a rate that somebody else measured instead of the stage's own."""
        self._rate = text

    @property
    def left_s(self) -> float | None:
        """Seconds left at the recent pace; None where the total or the pace is not known."""
        total = self._progress.tasks[self._task].total
        if total is None or len(self._pace) < 2 or self.count >= total:
            return None
        (then, before), now = self._pace[0], time.monotonic()
        return (total - self.count) * (now - then) / (self.count - before) if self.count > before else None

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second since the stage began."""
        return (self.count - self._before) / max(self.seconds, 1e-9)


def clock_time(seconds: float) -> str:
    """1:02:03, 2:03 or 2 d 03:04."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3_600)
    if days:
        return f"{days} d {hours:02d}:{rest // 60:02d}"
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def rate_text(per_second: float, unit: str) -> str:
    """12.3 images/s, or 3.1 trials/min for what takes longer than two seconds."""
    if 0 < per_second < 0.5:
        return f"{60 * per_second:,.1f} {unit}/min"
    return f"{per_second:,.1f} {unit}/s"


@contextlib.contextmanager
def following(update: Callable[[], None]) -> Iterator[None]:
    """Call `update` twice a second from a thread while the block runs, and once at its end.

    An update that raises is logged, the first time with its traceback, and the next one is tried: to show is no
    reason to stop, and the block's own outcome stays.
    """
    done, failed = threading.Event(), False

    def try_update() -> None:
        nonlocal failed
        try:
            update()
        except Exception as error:  # whatever reading a run's folder may raise
            if not failed:
                log.warning("progress is not shown for now: %s", error, exc_info=True)
            failed = True

    def follow() -> None:
        while not done.wait(FOLLOW_EVERY_S):
            try_update()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try_update()


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
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            *(TextColumn(f"{{task.fields[{name}]}}", markup=False, table_column=Column(no_wrap=True))
              for name in ("count", "rate", "left")),
            # gives way where the terminal is narrow: one line stays one line
            TextColumn("{task.fields[note]}", markup=False,
                       table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        )  # fmt: skip
        live = self._rich.is_terminal  # a log file gets a line now and then instead
        progress = Progress(*columns, console=self._rich, transient=True, disable=not live, expand=True)
        with progress:
            task = progress.add_task(name, total=total, count="", rate="", left="", note="")
            stage = Stage(progress, task, unit, None if live else self._rich)
            yield stage
        if not stage.count:
            self.say(f"{name:<12} {stage.seconds:.1f} s")
            return
        of_total = f" of {total}" if total is not None and stage.count != total else ""
        rate = f"({rate_text(stage.rate, unit)})" if stage.seconds > 0.5 else ""
        self.say(f"{name:<12} {stage.count}{of_total} {unit} in {stage.seconds:.1f} s {rate}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A closing table."""
        table = Table(*columns, title=title, title_justify="left", title_style="bold")
        for row in rows:
            table.add_row(*map(str, row))
        self._rich.print(table)
