"""The progress line of pre-training: what it says, on a terminal and in a log file."""

import errno
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_jobs import console as module
from ray_jobs.console import LOG_EVERY_S, Console, clock_time, following
from ray_jobs.pretrain_progress import LOSSES, following_run, progress_note
from usfm.models.objectives import OBJECTIVES
from usfm.train.journal import last_row

ROW = {"step": 3, "epoch": 1.25, "loss": 0.51234, "spatial": 0.4, "frequency": 1.5, "refused": 0, "lr": 3e-4,
       "images_per_s": 1234.5, "data_wait": 0.021}  # fmt: skip
SAYS = "epoch 1.25/4  loss 0.5123  wait 2%  spatial 0.400  frequency 1.500  lr 3.0e-04"


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_row_in_one_line() -> None:
    assert progress_note(ROW, 4) == SAYS
    assert progress_note(ROW | {"refused": 1}, 4).startswith("REFUSED  epoch")


def test_the_terms_of_every_objective_are_shown() -> None:
    assert set(LOSSES) == {term for kind in OBJECTIVES.values() for term in kind.term_names}


def test_a_run_without_a_row_says_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "LOG_EVERY_S", 0)
    config = SimpleNamespace(batch=SimpleNamespace(global_size=8), epochs=1)
    said, deadline = "", time.monotonic() + 60
    with following_run(Console(), tmp_path, SimpleNamespace(total_samples=64), config, 2):
        while "workers are starting" not in said:
            assert time.monotonic() < deadline, f"nothing said in a minute that the workers are starting: {said!r}"
            time.sleep(0.05)
            said += capsys.readouterr().out
    assert said.split()[:2] == ["pretrain", "16/64"]


def test_times_as_people_write_them() -> None:
    assert [clock_time(s) for s in (7.4, 125, 3_723, 97_445)] == ["0:07", "2:05", "1:02:03", "1 d 03:04"]


def test_time_left_follows_the_recent_pace_and_a_resumed_start_is_no_pace(clock: Clock) -> None:
    with Console().stage("pretrain", 10_000, "images") as stage:
        stage.resume(4_000)
        assert stage.left_s is None
        clock.now += 10
        stage.to(4_100)  # 10 images/s
        assert stage.left_s == pytest.approx(590)
        for _ in range(40):  # then 20 images/s, long enough to forget
            clock.now += 10
            stage.to(stage.count + 200)
            if stage.count >= 9_000:
                break
        assert stage.left_s == pytest.approx((10_000 - stage.count) / 20, rel=0.15)
        stage.to(6_000)  # a worker was lost, steps are done again
        assert stage.left_s is None
        clock.now += 10
        stage.to(6_100)
        assert stage.left_s == pytest.approx(390)


def test_a_log_file_gets_the_same_words(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("pretrain", 4_000, "images") as stage:
        for count in (1_000, 2_000):
            clock.now += LOG_EVERY_S + 1
            stage.says_rate("1,234 images/s")
            stage.note(SAYS)
            stage.to(count)
        lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"pretrain     1,000/4,000 1,234 images/s  0:48 left  {SAYS}",
        f"pretrain     2,000/4,000 1,234 images/s  0:32 left  {SAYS}",
    ]


@pytest.mark.parametrize("columns", [60, 100, 160])
def test_a_terminal_shows_one_live_line_however_narrow(columns: int, tmp_path: Path) -> None:
    program = f"""
import time
from ray_jobs.console import Console
with Console().stage("pretrain", 4000, "images") as stage:
    for count in (1000, 2000):
        stage.says_rate("1,234 images/s")
        stage.note({SAYS!r})
        stage.to(count)
        time.sleep(0.3)
"""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color", "LINES": "24"}
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=theirs, stderr=theirs, stdin=theirs, cwd=root, env=env
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            ready, _, _ = select.select([ours], [], [], 60)
            assert ready, "nothing came for a minute"
            try:
                written += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait(60) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode())
    frames = [frame for frame in re.split(r"[\r\n]+", text) if "2,000/4,000" in frame]
    assert frames
    for frame in frames:
        assert len(frame) <= columns
        assert frame.startswith("pretrain")
        assert "1,234 images/s" in frame
    if columns == 160:
        assert any(SAYS in frame for frame in frames)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOENT])
def test_a_storage_that_is_away_has_no_last_row(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert last_row(tmp_path) == {"step": 2}

    def away(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", away)
    assert last_row(tmp_path) is None


def test_an_update_that_fails_neither_ends_the_following_nor_replaces_the_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FOLLOW_EVERY_S", 0.01)
    calls, again = [], threading.Event()

    def update() -> None:
        calls.append(None)
        if len(calls) == 3:
            again.set()
        raise ValueError(f"half a row, update {len(calls)}")

    with following(update):
        assert again.wait(60)  # from the thread, after two failures
    assert [record.message for record in caplog.records] == ["progress is not shown for now: half a row, update 1"]
    with pytest.raises(RuntimeError, match="the job's own"), following(update):
        raise RuntimeError("the job's own")
