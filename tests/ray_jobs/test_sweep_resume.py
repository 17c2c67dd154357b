"""A sweep whose processes are killed, or one trial's alone, ends with the table of one that was left alone."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from shard_factory import VIEW

from ray_jobs import sweep
from ray_jobs.console import Console
from usfm.models.bundle import read_bundle_spec
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune

VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.1}, "steps": 120, "batch_size": 8,
    "eval_every": 4, "optim": {"lr": 1e-3, "base_batch": 8},
}  # fmt: skip
PATIENCE_S = 200


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_sweep_goes_on_to_the_same_table(small_shards: Path, tmp_path: Path) -> None:
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "inits": {"scratch": "scratch"},
        "fractions": [0.5, 1.0], "seeds": [0], "finetune": VALUES, "tasks": [{**VIEW, "canvas_px": 64}],
        "max_concurrent": 1, "cluster": {"address": "local", "num_cpus": 1, "object_store_mb": 128},
    })  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml())
    command = [sys.executable, "-m", "ray_jobs.sweep", "--config", str(recipe)]
    middle = tmp_path / "sweep" / "trials" / "view-scratch-1-0" / "state" / "middle.pt"
    with (tmp_path / "output").open("wb") as output:
        running = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + PATIENCE_S
        while not middle.exists():
            assert running.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)  # its workers go with it
        running.wait()
    assert not (middle.parents[1] / "result.json").exists()
    assert sweep.main(["--resume", str(tmp_path / "sweep")]) == 0  # on the cluster of this process
    with (tmp_path / "sweep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, trial in zip(rows, sweep.trials(config).values(), strict=True):
        alone = finetune(trial.config.model_copy(update={"run_dir": str(tmp_path / trial.name)}), PlainContext())
        assert row["status"] == "ok"
        assert {key: float(row[key]) for key in ("value", "val_value")} == {
            k: alone[k] for k in ("value", "val_value")
        }
    assert not middle.parent.exists()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_interrupted_sweep_goes_on_to_the_same_table(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "inits": {"scratch": "scratch"},
        "fractions": [1.0], "seeds": [0, 1], "finetune": {**VALUES, "steps": 60},
        "tasks": [{**VIEW, "canvas_px": 64}], "max_concurrent": 1,
    })  # fmt: skip
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml())
    trials = list(sweep.trials(config).values())
    middle = Path(trials[0].config.run_dir) / "state" / "middle.pt"

    def interrupt() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and running.is_set() and not middle.exists():
            time.sleep(0.005)
        if middle.exists() and running.is_set():
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C; Tune catches it and returns

    before = signal.getsignal(signal.SIGINT)
    running, killer = threading.Event(), threading.Thread(target=interrupt)
    running.set()
    killer.start()
    status = sweep.main(["--config", str(recipe)])
    running.clear()
    killer.join()
    assert status == 130
    assert "run the same command again to go on" in capsys.readouterr().out
    # cut in its middle, and not begun: neither was stopped by a scheduler
    assert middle.exists()
    assert not list((tmp_path / "sweep" / "trials").glob("*/stopped.json"))
    assert sweep.main(["--config", str(recipe)]) == 0
    with (tmp_path / "sweep" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert signal.getsignal(signal.SIGINT) is before  # not Tune's, whose runs are over
    alone = finetune(trials[0].config.model_copy(update={"run_dir": str(tmp_path / "alone")}), PlainContext())
    assert {key: float(rows[0][key]) for key in ("value", "val_value")} == {
        k: alone[k] for k in ("value", "val_value")
    }


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_whose_process_alone_is_killed_goes_on_from_its_state(small_shards: Path, tmp_path: Path) -> None:
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "inits": {"scratch": "scratch"},
        "fractions": [1.0], "seeds": [0], "finetune": {**VALUES, "steps": 60}, "tasks": [{**VIEW, "canvas_px": 64}],
        "max_concurrent": 1,
    })  # fmt: skip
    (trial,) = sweep.trials(config).values()
    middle, killed = Path(trial.config.run_dir) / "state" / "middle.pt", []
    saved: set[int] = set()  # a report waits until Tune has taken the one before: after three states one is there

    def kill() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                saved.add(middle.stat().st_mtime_ns)
            if len(saved) > 2:
                actors = [
                    p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Implicit")
                ]
                killed.extend(actors)
                for process in actors:
                    process.kill()
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    folder = sweep.run(config, Console())
    killer.join()
    assert len(killed) == 1
    reports = (folder / "tune").glob("*/result.json")
    told = [json.loads(line) for path in reports for line in path.read_text().splitlines()]
    assert [row["step"] for row in told] == sorted({row["step"] for row in told}), "no step was taken twice"
    assert len({row["pid"] for row in told}) == 2
    with (folder / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    alone = finetune(trial.config.model_copy(update={"run_dir": str(tmp_path / "alone")}), PlainContext())
    assert row["status"] == "ok"
    assert {k: float(row[k]) for k in ("value", "val_value")} == {k: alone[k] for k in ("value", "val_value")}
    there, here = (read_bundle_spec(at / "best").version for at in (Path(trial.config.run_dir), tmp_path / "alone"))
    assert there == here
