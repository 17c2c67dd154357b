"""Pre-training through Ray Data and Ray Train, against the same loop in a plain process."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ray_jobs import pretrain as job
from ray_jobs.console import Console
from usfm.errors import ConfigError, EnvironmentProblem, NonFiniteLoss
from usfm.train.checkpoint import latest_checkpoint, read_state
from usfm.train.context import PlainContext
from usfm.train.journal import last_row, read_journal
from usfm.train.pretrain import local_feed, pretrain

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
TIMING = ("images_per_s", "data_wait", "observe_s")


def config_of(shards: Path, run_dir: Path, **values) -> job.PretrainJobConfig:
    base = {
        "run_dir": str(run_dir), "seed": 5,
        "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 24}},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
        "objective": {"spatial_mask": {"unit_px": 8}},
        "batch": {"global_size": 16, "micro_size": 4}, "epochs": 2, "epoch_samples": 80,
        "optim": {"lr": 0.01}, "checkpoint_every": 4,
    }  # fmt: skip
    return job.PretrainJobConfig.build(base | values)


def rows(run_dir: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_journal(run_dir)]


@pytest.fixture(scope="module")
def undisturbed(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Ten steps in this process, without Ray."""
    config = config_of(small_shards, tmp_path_factory.mktemp("plain")).science()
    context = PlainContext(torch.device("cpu"))
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context))
    return rows(Path(config.run_dir))


def test_one_worker_goes_on_from_a_stop_and_equals_the_plain_process(
    small_shards: Path, tmp_path: Path, undisturbed: list[dict]
) -> None:
    config = config_of(small_shards, tmp_path / "run")
    context = PlainContext(torch.device("cpu"))
    science = config.science()
    pretrain(science, context, lambda stream, plan: local_feed(stream, plan, science, context), stop_after=3)
    assert job.plan(config)["resumes_at_step"] == 3
    job.run(config, Console())
    assert rows(tmp_path / "run") == undisturbed
    state = read_state(latest_checkpoint(tmp_path / "run"))
    assert (state["step"], state["samples"]) == (10, 160)


def test_two_workers_see_the_same_global_batches(
    small_shards: Path, tmp_path: Path, undisturbed: list[dict]
) -> None:
    run_dir, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    job.run(config_of(small_shards, run_dir, workers=2), Console())
    assert signal.getsignal(signal.SIGINT) == before  # Ray Train's would end a later job with status 0
    two = rows(run_dir)
    assert [row["organ_count"] for row in two] == [row["organ_count"] for row in undisturbed]
    for name in ("loss", "spatial", "frequency", "grad_norm"):
        assert np.allclose([r[name] for r in two], [r[name] for r in undisturbed], rtol=1e-3), name
    assert two[0]["loss"] == pytest.approx(undisturbed[0]["loss"], rel=1e-6)
    for name in ("config.yaml", "plan.json", "environment.json", "metrics.jsonl"):
        assert (run_dir / name).stat().st_size > 0
    assert list((run_dir / "tensorboard").glob("events*"))
    # the folder holds this run now: another config is refused, the same one has nothing left to do
    with pytest.raises(ConfigError, match="already holds a run with other values of optim"):
        job.run(config_of(small_shards, run_dir, workers=2, optim={"lr": 1.0}), Console())


def test_what_can_never_be_placed_is_refused(small_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="needs 3 CPUs"):
        job.run(config_of(small_shards, tmp_path / "run", workers=4, cpus_per_worker=0.5), Console())


def kill_a_worker_after(step: int, run_dir: Path, killed: list[int]) -> None:
    """Kill one train worker of this process's cluster once the journal has reached a step."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        row = last_row(run_dir)
        if row and row["step"] >= step:
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in process.name() or "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    return
        threading.Event().wait(0.02)


def test_a_killed_worker_changes_nothing(small_shards: Path, tmp_path: Path) -> None:
    # long enough that the kill falls into it
    long = {"epochs": 30, "batch": {"global_size": 16, "micro_size": 16}, "checkpoint_every": 25}
    whole = config_of(small_shards, tmp_path / "whole", **long)
    context = PlainContext(torch.device("cpu"))
    science = whole.science()
    pretrain(science, context, lambda stream, plan: local_feed(stream, plan, science, context))

    run_dir, killed = tmp_path / "run", []
    watcher = threading.Thread(target=kill_a_worker_after, args=(40, run_dir, killed))
    watcher.start()
    job.run(config_of(small_shards, run_dir, **long), Console())
    watcher.join()
    assert len(killed) == 1
    assert rows(run_dir) == rows(tmp_path / "whole")  # 150 steps, in order, every value
    stamps = [path.name for path in (run_dir / "tensorboard").glob("events*")]
    assert len(stamps) == 2  # the run was really started twice


def test_a_non_finite_loss_stops_without_a_restart(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path / "run", optim={"lr": 1e30, "warmup": 0.0, "clip_norm": 0})
    with pytest.raises(NonFiniteLoss, match="the step was not taken"):
        job.run(config, Console())
    records = list((tmp_path / "run" / "nonfinite").iterdir())
    assert len(records) == 1
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 1


def test_a_shard_that_disappears_is_reported_and_the_run_goes_on(
    small_shards: Path, tmp_path: Path, undisturbed: list[dict], capsys: pytest.CaptureFixture[str]
) -> None:
    shards = Path(shutil.copytree(small_shards, tmp_path / "shards"))
    config = config_of(shards, tmp_path / "run", workers=2)
    (shards / "train/heart/00001.arrow").unlink()
    job.run(config, Console())
    got = rows(tmp_path / "run")
    assert [row["organ_count"] for row in got] == [row["organ_count"] for row in undisturbed]
    assert sum(row["replaced"] for row in got) > 0
    said = [json.loads(line) for path in (tmp_path / "run" / "replaced").iterdir() for line in path.open()]
    assert sum(len(record["index"]) for record in said) == sum(row["replaced"] for row in got)
    assert {name for record in said for name in record["shards"]} == {"train/heart/00001.arrow"}
    assert "shards are missing or damaged" in capsys.readouterr().out
