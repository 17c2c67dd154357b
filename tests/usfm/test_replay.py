"""A refused step is repeated from what was kept: same loss, and the place where it breaks."""

import errno
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_pretrain import config_of, run

from ray_jobs.replay import main
from usfm.data.stream import ImageStream
from usfm.errors import CheckpointError, NonFiniteLoss
from usfm.train.replay import refused_steps, replay
from usfm.train.rundir import open_run

CPU = torch.device("cpu")


@pytest.fixture
def exploded(small_shards: Path, tmp_path: Path) -> Path:
    """A run whose rate is absurd: the weights of step 1 give a loss that is not finite."""
    config = config_of(small_shards, tmp_path, optim={"lr": 1e30, "warmup": 0.0, "clip_norm": 0})
    open_run(tmp_path, config, {})
    with pytest.raises(NonFiniteLoss, match="usfm replay"):
        run(config)
    return tmp_path


def test_a_step_that_exploded_explodes_again_and_the_place_is_named(
    small_shards: Path, exploded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused_steps(exploded) == [1]
    config = config_of(small_shards, exploded, optim={"lr": 1e30, "warmup": 0.0, "clip_norm": 0})
    found = replay(exploded, config, 1, CPU)
    assert found.reproduced
    assert not math.isfinite(found.loss)
    assert not math.isfinite(found.recorded_loss)
    assert found.weights == []  # huge, yet finite
    assert found.module.startswith("encoder.beit")
    ids = ImageStream(config.data, config.seed).ids(torch.arange(12, 24).numpy())
    assert [sample["id"] for sample in found.samples] == ids  # all of them: the weights are at fault, not an image
    assert main([str(exploded)]) == 0
    said = capsys.readouterr().out
    assert "reproduced   yes" in said
    assert f"first at     {found.module}" in said


def test_numbers_that_do_not_come_back_are_said_to_differ(small_shards: Path, exploded: Path) -> None:
    config = config_of(small_shards, exploded)
    weights = exploded / "nonfinite" / "step-00000001" / "model.safetensors"
    save_file({name: torch.zeros_like(t) for name, t in load_file(weights).items()}, weights)
    found = replay(exploded, config, 1, CPU)
    assert not found.reproduced
    assert math.isfinite(found.loss)
    assert found.module == ""


def test_a_finite_step_comes_back_to_the_same_loss_and_gradient_norm(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole chain of batches, seeds (drop-path is on) and weights, on numbers that can be compared."""
    rows = run(config_of(small_shards, tmp_path / "plain"), stop_after=2)
    monkeypatch.setattr("usfm.train.pretrain_step.math.isfinite", lambda value: False)
    config = config_of(small_shards, tmp_path / "refused")
    with pytest.raises(NonFiniteLoss):
        run(config)
    monkeypatch.undo()
    found = replay(tmp_path / "refused", config, 0, CPU)
    assert found.reproduced
    assert found.loss == pytest.approx(rows[0]["loss"], rel=1e-6)
    assert found.grad_norm == pytest.approx(rows[0]["grad_norm"], rel=1e-4)


def test_a_step_without_the_batches_of_all_workers_is_refused(small_shards: Path, exploded: Path) -> None:
    record = exploded / "nonfinite" / "step-00000001" / "rank-0.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"world_size": 2}))
    with pytest.raises(CheckpointError, match="1 of 2 workers"):
        replay(exploded, config_of(small_shards, exploded), 1, CPU)


def test_files_of_an_earlier_try_with_more_workers_do_not_count(small_shards: Path, exploded: Path) -> None:
    folder = exploded / "nonfinite" / "step-00000001"
    for suffix in ("json", "safetensors"):
        shutil.copy(folder / f"rank-0.{suffix}", folder / f"rank-1.{suffix}")
    assert replay(exploded, config_of(small_shards, exploded), 1, CPU).reproduced


def test_a_step_that_cannot_be_kept_is_skipped_all_the_same(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("usfm.train.refused.save_file", full)
    rates = {"lr": 1e30, "warmup": 0.0, "clip_norm": 0}
    with pytest.raises(NonFiniteLoss, match="nor were the 9 before it"):
        run(config_of(small_shards, tmp_path, optim=rates, nonfinite="skip", epochs=5))
    assert "could not be kept" in caplog.text


def test_ten_in_a_row_are_counted_over_a_restart(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(
        small_shards, tmp_path, optim={"lr": 1e30, "warmup": 0.0, "clip_norm": 0}, nonfinite="skip", epochs=5
    )
    rows = run(config, stop_after=7)
    assert [row["refused"] for row in rows] == [0, 1, 1, 1, 1, 1, 1]
    with pytest.raises(NonFiniteLoss, match="step 10: .* nor were the 9 before it"):
        run(config)
    assert len(list((tmp_path / "nonfinite").glob("*/model.safetensors"))) == 3
    assert refused_steps(tmp_path) == list(range(1, 11))


def test_a_run_without_refused_steps_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "was refused" in capsys.readouterr().out
