"""Rows on a storage that is full, away, or was left with half a line."""

import json
import os
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from usfm.errors import EnvironmentProblem
from usfm.train import board, journal, row_file
from usfm.train.journal import Journal, read_journal
from usfm.train.row_file import RowFile


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def a_disk_with_room_for(monkeypatch: pytest.MonkeyPatch, room: int) -> list[int]:
    """`os.write` as on a disk with so many bytes left: it takes a part, then raises; room[0] may be changed."""
    left, write = [room], os.write

    def full(handle: int, data: bytes) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        taken = write(handle, bytes(data)[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(row_file.os, "write", full)
    return left


def test_rows_wait_while_the_disk_is_full_and_keep_their_order(tmp_path: Path, monkeypatch) -> None:
    file = RowFile(tmp_path / "rows.jsonl")
    assert file.append({"n": 0})
    left = a_disk_with_room_for(monkeypatch, 4)  # half a row fits
    assert not file.append({"n": 1})
    assert (tmp_path / "rows.jsonl").read_text() == '{"n": 0}\n{"n"'
    assert not file.append({"n": 2})
    assert file.unwritten == [{"n": 1}, {"n": 2}]
    left[0] = 1000
    assert file.append({"n": 3})
    assert file.unwritten == []
    assert rows(tmp_path / "rows.jsonl") == [{"n": n} for n in range(4)]


def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = RowFile(folder / "rows.jsonl")
    file.append({"n": 0})
    folder.rename(tmp_path / "away")
    assert not file.append({"n": 1})
    folder.mkdir()  # the bare mount point: nothing must be written into it
    assert not file.append({"n": 2})
    assert list(folder.iterdir()) == []
    folder.rmdir()
    (tmp_path / "away").rename(folder)
    assert file.flush(to_disk=True)
    assert rows(folder / "rows.jsonl") == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_half_a_line_of_a_killed_writer_goes(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"n": 0}\n{"n": 1')
    assert RowFile(tmp_path / "rows.jsonl").append({"n": 7})
    assert rows(tmp_path / "rows.jsonl") == [{"n": 0}, {"n": 7}]


def test_a_resumed_journal_drops_what_is_redone_and_takes_what_the_checkpoint_kept(tmp_path: Path) -> None:
    with Journal(tmp_path) as first:
        for step in (1, 2, 3):
            first.write(step, {"loss": float(step)})
    # the file lacks 4 and 5: the disk was full, and the checkpoint of step 5 kept them
    kept = [{"step": step, "loss": float(step)} for step in (3, 4, 5, 6)]
    with Journal(tmp_path, 5, unwritten=kept) as second:
        second.write(6, {"loss": 6.0})
    assert [row["step"] for row in read_journal(tmp_path)] == [1, 2, 3, 4, 5, 6]
    with Journal(tmp_path, 2):
        assert [row["step"] for row in read_journal(tmp_path)] == [1, 2]


def test_the_journal_hands_over_what_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "SummaryWriter", lambda *_, **__: NoBoard())
    with Journal(tmp_path) as opened:
        opened.write(1, {"loss": 1.0})
        assert opened.settle() == []
        left = a_disk_with_room_for(monkeypatch, 0)
        opened.write(2, {"loss": 2.0})
        assert opened.settle() == [{"step": 2, "loss": 2.0}]
        left[0] = 1000
    assert [row["step"] for row in read_journal(tmp_path)] == [1, 2]  # the end of the run waits for them


def test_a_run_that_ends_says_that_rows_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "SummaryWriter", lambda *_, **__: NoBoard())
    monkeypatch.setattr(journal, "END_PATIENCE_S", 0.1)
    opened = Journal(tmp_path)
    a_disk_with_room_for(monkeypatch, 0)
    opened.write(1, {"loss": 1.0})
    with pytest.raises(EnvironmentProblem, match="lacks the last rows"):
        opened.__exit__(None)


class NoBoard:
    def add_scalar(self, *_: object) -> None: ...

    def close(self) -> None: ...


def test_tensorboard_starts_anew_with_all_rows_after_its_disk_was_full(tmp_path: Path, monkeypatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(board, "PAUSE_S", 0.0)
    full = [False]

    class OnFullDisk(SummaryWriter):
        def add_scalar(self, *args, **kwargs) -> None:
            if full[0]:
                raise OSError(28, "No space left on device")
            super().add_scalar(*args, **kwargs)

    monkeypatch.setattr(board, "SummaryWriter", OnFullDisk)
    with Journal(tmp_path) as opened:
        for step in range(1, 7):
            full[0] = step in (3, 4)
            opened.write(step, {"loss": step / 8})
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    seen = {event.step: event.value for event in read.Scalars("loss")}
    assert seen == {step: step / 8 for step in range(1, 7)}
