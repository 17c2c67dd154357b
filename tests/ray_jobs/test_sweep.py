"""A label-efficiency sweep with Ray Tune, alone in the trial's process and over Ray Train."""

import csv
import json
from pathlib import Path

import pytest
import torch
from shard_factory import HEAD, VIEW

from ray_jobs import finetune as finetune_job
from ray_jobs import sweep
from ray_jobs.console import Console
from ray_jobs.finetune import FinetuneJobConfig
from usfm.errors import CheckpointError, ConfigError
from usfm.models.bundle import load_bundle
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.journal import read_journal

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}
VALUES = {"encoder": ENCODER, "steps": 6, "batch_size": 8, "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}}


def config_of(shards: Path, run_dir: Path, **values) -> sweep.SweepConfig:
    base = {
        "run_dir": str(run_dir), "shards": str(shards), "inits": {"scratch": "scratch"}, "fractions": [0.5, 1.0],
        "seeds": [0], "finetune": VALUES, "tasks": [{**HEAD, "canvas_px": 64}, {**VIEW, "canvas_px": 64}],
    }  # fmt: skip
    return sweep.SweepConfig.build(base | values)


def results(folder: Path) -> list[dict]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def reported(folder: Path) -> dict[str, list[int]]:
    """Steps at which each trial reported to Tune."""
    return {
        path.parent.name: [json.loads(line)["step"] for line in path.read_text().splitlines()]
        for path in folder.glob("tune/*/result.json")
    }


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_trials_report_fail_alone_and_are_not_done_twice(small_shards: Path, tmp_path: Path) -> None:
    # a rate that makes the loss overflow: these trials fail, the others must not
    broken = config_of(
        small_shards, tmp_path, per_task={"view": {"optim": {"lr": 1e30, "clip_norm": 0}}}, retries=0
    )
    folder = sweep.run(broken, Console())
    rows = results(folder)
    assert [row["task"] for row in rows] == ["head", "head", "view", "view"]
    assert [row["status"] == "ok" for row in rows] == [True, True, False, False]
    assert all("NonFiniteLoss" in row["status"] for row in rows[2:])
    assert [int(row["train_groups"]) for row in rows[:2]] == [6, 12]
    steps = reported(folder)
    assert all(steps[name] == [2, 4, 6] for name in ("head-scratch-0.5-0", "head-scratch-1-0"))
    page = (folder / "label_efficiency.html").read_text()
    assert page.count("<figure>") == 1  # view has no score to draw
    assert "<figcaption>head</figcaption>" in page
    _, spec = load_bundle(folder / "best" / "head")
    assert spec.name == "head"
    assert not (folder / "best" / "view").exists()
    # going on: what is done is kept, byte for byte
    done = {p: p.stat().st_mtime_ns for p in folder.glob("trials/head-*/result.json")}
    sweep.run(broken, Console())
    assert {p: p.stat().st_mtime_ns for p in folder.glob("trials/head-*/result.json")} == done


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_over_ray_train_gives_the_same_scores(small_shards: Path, tmp_path: Path) -> None:
    view = {"tasks": [{**VIEW, "canvas_px": 64}], "fractions": [1.0]}
    alone = sweep.run(config_of(small_shards, tmp_path / "alone", **view), Console())
    grouped = config_of(small_shards, tmp_path / "group", workers_per_trial=1, cpus_per_trial=1, **view)
    over_train = sweep.run(grouped, Console())
    assert reported(over_train)["view-scratch-1-0"] == [2, 4, 6]
    names = ("task", "init", "fraction", "value", "val_value", "status")
    first, second = ([{k: row[k] for k in names} for row in results(f)] for f in (alone, over_train))
    assert first == second


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_share_one_finetuning_run(small_shards: Path, tmp_path: Path) -> None:
    values = {**VALUES, "shards": str(small_shards), "task": {**HEAD, "canvas_px": 64}}
    plain = FinetuneConfig.build({**values, "run_dir": str(tmp_path / "plain")})
    finetune(plain, PlainContext(device=torch.device("cpu")))
    shared = FinetuneJobConfig.build({**values, "run_dir": str(tmp_path / "shared"), "workers": 2})
    bundle = finetune_job.run(shared, Console())
    assert load_bundle(bundle)[1].name == "head"
    one, two = ([row["train_loss"] for row in read_journal(tmp_path / name)] for name in ("plain", "shared"))
    assert len(two) == 3
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_scheduler_stops_a_weak_trial_and_keeps_the_finished_one(small_shards: Path, tmp_path: Path) -> None:
    stuck = {
        **VIEW,
        "name": "stuck",
        "canvas_px": 64,
    }  # the same task from another head, which starts wrong and does not learn
    values = {"fractions": [1.0], "seeds": [1], "max_concurrent": 1, "per_task": {"stuck": {"optim": {"lr": 1e-9}}}}
    slow = {**VALUES, "steps": 16, "eval_every": 8}
    tasks = [{**VIEW, "canvas_px": 64}, stuck]
    config = config_of(small_shards, tmp_path, scheduler="asha", finetune=slow, tasks=tasks, **values)
    status = {row["task"]: row["status"] for row in results(sweep.run(config, Console()))}
    assert status == {"view": "ok", "stuck": "stopped early by the scheduler"}
    assert reported(tmp_path) == {"view-scratch-1-1": [8, 16], "stuck-scratch-1-1": [8]}
    assert sweep.plan(config)["done"] == 2  # a stopped trial is not run again


def test_results_of_other_shards_do_not_count_as_done(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path, tasks=[{**VIEW, "canvas_px": 64}], fractions=[1.0])
    trial = sweep.trials(config)["view-scratch-1-0"]
    finetune(trial, PlainContext())
    assert sweep.plan(config)["done"] == 1
    path = Path(trial.run_dir) / "result.json"
    path.write_text(path.read_text().replace('"shards": "made"', '"shards": "others"'))
    assert sweep.plan(config)["done"] == 0


def test_trials_are_checked_before_any_starts(small_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key stepps; did you mean steps\?"):
        sweep.trials(config_of(small_shards, tmp_path, finetune={**VALUES, "stepps": 3}))
    with pytest.raises(ConfigError, match="per_task names no task of this sweep: heads"):
        sweep.trials(config_of(small_shards, tmp_path, per_task={"heads": {}}))
    missing = config_of(small_shards, tmp_path, inits={"pretrained": str(tmp_path / "none")},
                        finetune={k: v for k, v in VALUES.items() if k != "encoder"})  # fmt: skip
    with pytest.raises(CheckpointError, match="neither a pre-training run nor an exported model"):
        sweep.run(missing, Console())


def test_nested_values_are_merged(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path, per_task={"view": {"optim": {"lr": 5e-4}}})
    made = sweep.trials(config)
    assert list(made) == ["head-scratch-0.5-0", "head-scratch-1-0", "view-scratch-0.5-0", "view-scratch-1-0"]
    assert (made["view-scratch-1-0"].optim.lr, made["view-scratch-1-0"].optim.base_batch) == (5e-4, 8)
    assert made["head-scratch-1-0"].optim.lr == 1e-3
