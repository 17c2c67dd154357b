import pytest

from ray_jobs import console as module
from ray_jobs.console import LOG_EVERY_S, Console, rate_text


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_stage_counts_and_knows_its_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("read", 30, "items") as stage:
        stage.advance(4)
        stage.advance()
        assert stage.count == 5
        stage.to(20)
        clock.now += 8
        assert (stage.seconds, stage.rate) == (8, 2.5)
    assert capsys.readouterr().out == "read         20 of 30 items in 8.0 s (2.5 items/s)\n"


def test_a_whole_stage_does_not_repeat_its_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("read", 30, "items") as stage:
        stage.to(30)
        clock.now += 2
    assert capsys.readouterr().out == "read         30 items in 2.0 s (15.0 items/s)\n"


def test_a_stage_without_a_count_says_its_time(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("assemble"):
        clock.now += 3
    assert capsys.readouterr().out == "assemble     3.0 s\n"


def test_a_log_file_gets_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("train", 100, "images") as stage:
        stage.note("loss [b]0.5[/b]")
        for _ in range(9):
            clock.now += LOG_EVERY_S / 3
            stage.advance(10)
        lines = capsys.readouterr().out.splitlines()
    # more than LOG_EVERY_S apart: after updates 4 and 8
    assert [line.split()[:2] for line in lines] == [["train", "40/100"], ["train", "80/100"]]
    assert all("2.0 images/s" in line and line.endswith("loss [b]0.5[/b]") for line in lines)


def test_a_rate_is_told_in_a_unit_that_shows_it() -> None:
    assert [rate_text(rate, "trials") for rate in (0.0, 0.02, 0.7, 1234.5)] == [
        "0.0 trials/s", "1.2 trials/min", "0.7 trials/s", "1,234.5 trials/s"
    ]  # fmt: skip


def test_messages_are_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.say("bundles=[a]")
    console.warn("[red]careful")
    console.error("organs=[heart]")
    assert capsys.readouterr().out.splitlines() == ["bundles=[a]", "! [red]careful", "error: organs=[heart]"]


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    Console().table("scores", ("task", "dice"), [("head", 0.91), ("nerve", 0.5)])
    out = capsys.readouterr().out
    assert all(cell in out for cell in ("scores", "task", "dice", "head", "0.91", "nerve", "0.5"))
