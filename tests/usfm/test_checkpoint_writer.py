"""Saving while training goes on: what appears, what stays, and what a storage that fails costs."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from usfm.errors import CheckpointError
from usfm.train import checkpoint, checkpoint_writer
from usfm.train.checkpoint import checkpoint_folder, checkpoints, is_whole, latest_checkpoint, read_state
from usfm.train.checkpoint_writer import PROBLEMS, CheckpointWriter


def model_and_optimizer() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def steps_of(run_dir: Path) -> list[int]:
    return [read_state(folder)["step"] for folder in checkpoints(run_dir)]


def problems(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / PROBLEMS).read_text().splitlines()]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A disk that is full while the event is clear."""
    room = threading.Event()
    room.set()
    write = checkpoint.write_snapshot

    def guarded(folder: Path, snapshot: checkpoint.Snapshot) -> None:
        write(folder, snapshot)
        if not room.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", guarded)
    yield room
    room.set()


def test_what_is_saved_is_the_state_of_the_call_not_of_the_write(tmp_path: Path, monkeypatch) -> None:
    model, optimizer = model_and_optimizer()
    go, write = threading.Event(), checkpoint.write_snapshot

    def waiting(*args) -> None:
        assert go.wait(20)
        write(*args)

    monkeypatch.setattr(checkpoint_writer, "write_snapshot", waiting)
    then = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moment = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save(1, model, optimizer, {"step": 1})
        step(model, optimizer)  # training goes on while nothing is written
        assert checkpoints(tmp_path) == []
        go.set()
    again, their = model_and_optimizer()
    checkpoint.restore_checkpoint(checkpoint_folder(tmp_path, 1), again, their, {})
    assert all(torch.equal(again.state_dict()[name], then[name]) for name in then)
    assert torch.equal(their.state_dict()["state"][0]["exp_avg"], moment)
    assert not torch.equal(model.state_dict()["weight"], then["weight"])


def test_a_healthy_disk_gets_every_checkpoint_and_keeps_the_newest(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for number in range(1, 6):
            writer.save(number, model, optimizer, {"step": number})
    assert steps_of(tmp_path) == [5, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for number in (1, 2):
            writer.save(number, model, optimizer, {"step": number})
    (tmp_path / "step-00000002" / "model.safetensors").write_bytes(b"half")
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save(3, model, optimizer, {"step": 3})
    assert [folder.name[-1] for folder in checkpoints(tmp_path)] == ["3", "2", "1"]
    assert [is_whole(folder) for folder in checkpoints(tmp_path)] == [True, False, True]
    assert ["passed over" in row["problem"] for row in problems(tmp_path)] == [True]
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save(4, model, optimizer, {"step": 4})
    assert steps_of(tmp_path) == [4, 3]  # the damaged one is older than what is kept


def test_a_checkpoint_in_place_of_a_damaged_one_is_whole(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    (tmp_path / "step-00000007").mkdir()
    (tmp_path / "step-00000007" / "state.json").write_text("{")
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save(7, model, optimizer, {"step": 7})
    assert steps_of(tmp_path) == [7]


def test_leftovers_of_killed_saves_go_at_the_start(tmp_path: Path) -> None:
    for name in (".step-00000002.partial", ".step-00000001.removed.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    with CheckpointWriter(tmp_path, keep=1):
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_a_checkpoint_and_training_goes_on(tmp_path: Path, disk: threading.Event) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save(1, model, optimizer, {"step": 1})
        writer.save(2, model, optimizer, {"step": 2})  # returns when 1 is written
    with CheckpointWriter(tmp_path, keep=2) as writer:
        disk.clear()
        writer.save(3, model, optimizer, {"step": 3})
        writer.save(4, model, optimizer, {"step": 4})  # returns although 3 cannot be written
        assert latest_checkpoint(tmp_path) == checkpoint_folder(tmp_path, 2)
        disk.set()
    assert steps_of(tmp_path) == [4, 2]
    assert list(tmp_path.glob(".*")) == []
    said = problems(tmp_path)
    assert said[0]["step"] == 3
    assert "No space left on device" in said[0]["problem"]
    assert any(row["problem"].startswith("given up for step 4") for row in said)


def test_the_last_checkpoint_has_to_be_written(tmp_path: Path, disk: threading.Event) -> None:
    model, optimizer = model_and_optimizer()
    disk.clear()

    def run() -> None:
        with CheckpointWriter(tmp_path, keep=2, patience_s=0.6) as writer:
            writer.save(1, model, optimizer, {"step": 1})

    with pytest.raises(CheckpointError, match=r"step 1.*No space left on device; make room"):
        run()
    assert len(problems(tmp_path)) >= 2  # tried again
    assert checkpoints(tmp_path) == []


def test_another_error_is_heard_although_the_disk_is_full(tmp_path: Path, disk: threading.Event) -> None:
    model, optimizer = model_and_optimizer()
    disk.clear()

    def run() -> None:
        with CheckpointWriter(tmp_path, keep=2) as writer:  # no patience of two minutes here
            writer.save(1, model, optimizer, {"step": 1})
            raise KeyError("the true reason")

    with pytest.raises(KeyError, match="the true reason"):
        run()


def test_a_run_folder_that_is_away_is_not_made_anew(tmp_path: Path) -> None:
    model, optimizer = model_and_optimizer()
    away = tmp_path / "run"
    with (
        pytest.raises(CheckpointError, match="No such file or directory"),
        CheckpointWriter(away, keep=1, patience_s=0.1) as writer,
    ):
        writer.save(1, model, optimizer, {"step": 1})
    assert not away.exists()


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save(1, model, optimizer, {"step": 1})
    hashed: list[str] = []
    sha256 = checkpoint.file_sha256
    monkeypatch.setattr(checkpoint, "file_sha256", lambda path: hashed.append(path.name) or sha256(path))
    checkpoint._sha256_of.cache_clear()
    for _ in range(3):
        assert latest_checkpoint(tmp_path) is not None
    assert sorted(hashed) == ["model.safetensors", "optimizer.pt"]
    weights = tmp_path / "step-00000001" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert latest_checkpoint(tmp_path) is None


def test_a_storage_that_stumbles_is_not_taken_for_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = model_and_optimizer()
    with CheckpointWriter(tmp_path, keep=1) as writer:
        writer.save(1, model, optimizer, {"step": 1})
    checkpoint._sha256_of.cache_clear()
    sha256, asked = checkpoint.file_sha256, []

    def stumbling(path: Path) -> str:
        asked.append(path)
        if len(asked) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256(path)

    monkeypatch.setattr(checkpoint, "file_sha256", stumbling)
    assert is_whole(checkpoint_folder(tmp_path, 1))
    assert len(asked) == 3
