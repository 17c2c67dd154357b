"""A label-efficiency sweep with Ray Tune, alone in the trial's process and over Ray Train."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from shard_factory import HEAD, VIEW

from ray_jobs import finetune as finetune_job
from ray_jobs import sweep, sweep_ends
from ray_jobs.console import Console
from ray_jobs.finetune import FinetuneJobConfig
from ray_jobs.sweep_held import require_same
from usfm.errors import CheckpointError, ConfigError, UsfmError
from usfm.models.bundle import load_bundle
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.journal import read_journal
from usfm.train.rundir import open_run

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}
VALUES = {"encoder": ENCODER, "steps": 6, "batch_size": 8, "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}}

DIVERGING = {"optim": {"lr": 1e30, "clip_norm": 0}}


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
    # a rate that makes the loss overflow: this trial fails, the others must not
    inits = {"scratch": {"tasks": "head"}, "wild": {**DIVERGING, "tasks": "view", "fractions": [1.0]}}
    broken = config_of(small_shards, tmp_path, inits=inits, retries=0)
    folder = sweep.run(broken, Console())
    rows = results(folder)
    assert [row["task"] for row in rows] == ["head", "head", "view"]
    assert [row["status"] == "ok" for row in rows] == [True, True, False]
    assert "NonFiniteLoss" in rows[2]["status"]
    assert [int(row["train_groups"]) for row in rows[:2]] == [6, 12]
    steps = reported(folder)
    assert all(steps[name] == [2, 4, 6] for name in ("head-scratch-0.5-0", "head-scratch-1-0"))
    assert "NonFiniteLoss" in (folder / "report.html").read_text()
    _, spec = load_bundle(folder / "best" / "head")
    assert spec.name == "head"
    assert not (folder / "best" / "view").exists()
    # going on: what is done is kept, byte for byte
    done = {p: p.stat().st_mtime_ns for p in folder.glob("trials/head-*/result.json")}
    scored_by_hand = folder / "best" / "head" / "evaluation-test" / "report.html"
    scored_by_hand.parent.mkdir()
    scored_by_hand.write_text("of `usfm evaluate`")
    (folder / "best" / "gone").mkdir()  # of a task that has no score any more
    # and the table may grow
    more = broken.model_copy(update={"fractions": [0.25, 0.5, 1.0]})
    sweep.run(more, Console())
    assert [(row["task"], row["fraction"]) for row in results(folder) if row["status"] == "ok"] == [
        ("head", "0.25"), ("head", "0.5"), ("head", "1.0")
    ]  # fmt: skip
    assert scored_by_hand.exists()
    assert [path.name for path in (folder / "best").iterdir()] == ["head"]
    assert {p: p.stat().st_mtime_ns for p in done} == done


def attempts(folder: Path) -> dict[str, int]:
    """How often each trial has failed in the last call of a sweep."""
    return {path.parent.name: path.read_text().count("Failure # ") for path in folder.glob("tune/*/error.txt")}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_would_fail_again_is_not_retried(small_shards: Path, tmp_path: Path) -> None:
    # each end of a trial by an error costs a process, which imports torch
    inits = {"scratch": "scratch", "wild": {**DIVERGING, "fractions": [1.0]}}
    config = config_of(small_shards, tmp_path, inits=inits, retries=1, tasks=[{**HEAD, "canvas_px": 64}])
    # a disk that gives no journal, say: an error of the machine
    journal = tmp_path / "trials" / "head-scratch-1-0" / "metrics.jsonl"
    journal.mkdir(parents=True)

    def statuses() -> dict[str, str]:
        rows = results(sweep.run(config, Console()))
        return {f"{row['init']} {row['fraction']}": row["status"] for row in rows}

    status = statuses()
    assert {name: said == "ok" for name, said in status.items()} == {
        "scratch 0.5": True, "scratch 1.0": False, "wild 1.0": False
    }  # fmt: skip
    assert "IsADirectoryError" in status["scratch 1.0"]
    assert "NonFiniteLoss: fine-tuning step" in status["wild 1.0"]
    assert attempts(tmp_path) == {"head-scratch-1-0": 2, "head-wild-1-0": 1}
    # the next call of the sweep tries them all anew
    journal.rmdir()
    error = tmp_path / "tune" / "head-wild-1-0" / "error.txt"
    first = error.read_text()
    assert statuses() == status | {"scratch 1.0": "ok"}
    assert error.read_text() != first  # with time and process


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_would_fail_again_over_ray_train_is_not_retried_either(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path, tasks=[{**VIEW, "canvas_px": 64}], fractions=[1.0], retries=1,
                       finetune={**VALUES, **DIVERGING}, workers_per_trial=1)  # fmt: skip
    with pytest.raises(UsfmError, match="no trial .* came to its end; the first says: .*NonFiniteLoss"):
        sweep.run(config, Console())
    assert attempts(tmp_path) == {"view-scratch-1-0": 1}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_over_ray_train_gives_the_same_scores(small_shards: Path, tmp_path: Path) -> None:
    view = {"tasks": [{**VIEW, "canvas_px": 64}], "fractions": [1.0]}
    grouped = config_of(small_shards, tmp_path / "group", workers_per_trial=1, cpus_per_trial=1, **view)
    over_train = sweep.run(grouped, Console())
    assert reported(over_train)["view-scratch-1-0"] == [2, 4, 6]
    (trial,) = sweep.trials(grouped).values()
    # without Ray; `test_sweep_resume` compares trials without Ray Train with it too
    alone = finetune(trial.config.model_copy(update={"run_dir": str(tmp_path / "alone")}), PlainContext())
    (row,) = results(over_train)
    assert (row["task"], row["init"], row["fraction"], row["status"]) == ("view", "scratch", "1.0", "ok")
    assert [float(row[name]) for name in ("value", "val_value")] == [alone["value"], alone["val_value"]]


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
    # the second of the two rates does not learn
    search = {"space": {"optim.lr": {"choice": [1e-3, 1e-9]}}, "samples": 4, "scheduler": "asha", "grace": 0.5}
    slow = {**VALUES, "steps": 16, "eval_every": 8}
    config = config_of(small_shards, tmp_path, finetune=slow, tasks=[{**VIEW, "canvas_px": 64}], fractions=[1.0],
                       seeds=[1], max_concurrent=1, search=search)  # fmt: skip
    planned = sweep.trials(config)
    assert len(planned) == 2  # of four points two are the same as others
    rows = results(sweep.run(config, Console()))
    status = {float(row["search_optim.lr"]): row["status"] for row in rows}
    assert status == {1e-3: "ok", 1e-9: "stopped early by the scheduler"}
    assert [len(steps) for steps in reported(tmp_path).values()] == [2, 1]
    assert sweep.plan(config)["done"] == 2  # a stopped trial is not run again
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == {"view": {"scratch": {"optim": {"lr": 1e-3}}}}
    tuned = config_of(small_shards, tmp_path / "table", tuned=str(tmp_path / "best.yaml"), tasks=config.tasks)
    assert {trial.config.optim.lr for trial in sweep.trials(tuned).values()} == {1e-3}


def test_a_trial_of_other_settings_is_not_taken_for_one_of_the_table(small_shards: Path, tmp_path: Path) -> None:
    view = {"tasks": [{**VIEW, "canvas_px": 64}], "fractions": [1.0]}
    trial = sweep.trials(config_of(small_shards, tmp_path, **view))["view-scratch-1-0"].config
    open_run(Path(trial.run_dir), trial, {})
    other = config_of(small_shards, tmp_path, **view, inits={"scratch": {"optim": {"lr": 1e-2}}}, seeds=[0, 1])
    with pytest.raises(ConfigError, match="holds trial view-scratch-1-0 with other values of optim; give the task"):
        sweep.run(other, Console())


def test_a_table_may_grow_and_be_moved_but_not_lose_what_it_has(small_shards: Path, tmp_path: Path) -> None:
    view = {"tasks": [{**VIEW, "canvas_px": 64}], "fractions": [1.0]}
    had = config_of(small_shards, tmp_path / "old", **view, seeds=[0, 1])
    open_run(tmp_path / "old", had, {})
    trial = sweep.trials(had)["view-scratch-1-0"].config
    open_run(Path(trial.run_dir), trial, {})
    lost = config_of(small_shards, tmp_path / "old", **view, seeds=[1, 2])
    with pytest.raises(ConfigError, match="has trials of seeds 0; a table may grow but not lose what it has"):
        sweep.run(lost, Console())
    (tmp_path / "old").rename(tmp_path / "new")
    require_same(sweep.trials(config_of(small_shards, tmp_path / "new", **view, seeds=[0, 1, 2])))
    changed = config_of(small_shards, tmp_path / "new", **view, finetune={**VALUES, "steps": 8})
    with pytest.raises(ConfigError, match="with other values of steps"):
        require_same(sweep.trials(changed))


def test_results_of_other_shards_do_not_count_as_done(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path, tasks=[{**VIEW, "canvas_px": 64}], fractions=[1.0])
    trial = sweep.trials(config)["view-scratch-1-0"].config
    finetune(trial, PlainContext())
    assert sweep.plan(config)["done"] == 1
    path = Path(trial.run_dir) / "result.json"
    path.write_text(path.read_text().replace('"shards": "made"', '"shards": "others"'))
    assert sweep.plan(config)["done"] == 0


def test_trials_are_checked_before_any_starts(small_shards: Path, tmp_path: Path) -> None:
    def of(**values) -> dict:
        return sweep.trials(config_of(small_shards, tmp_path, **values))

    with pytest.raises(ConfigError, match=r"unknown key stepps; did you mean steps\?"):
        of(finetune={**VALUES, "stepps": 3})
    with pytest.raises(ConfigError, match="per_task names no task of this sweep: heads"):
        of(per_task={"heads": {}})
    with pytest.raises(ConfigError, match="inits.base.tasks names no task of this sweep: heads"):
        of(inits={"base": {"tasks": ["heads"]}})
    with pytest.raises(
        ConfigError, match="inits.base.fractions names no label fraction of this sweep: 0.3; it has"
    ):
        of(inits={"base": {"fractions": [0.3]}})
    with pytest.raises(ConfigError, match="inits.base sets seed, which the sweep itself sets"):
        of(inits={"base": {"seed": 3}})
    for name in ("../runs", "a/b", "a b", ".", "", "a[b]", "a\nb", "x" * 65):
        with pytest.raises(ConfigError, match="names of initialisations are parts of folders"):
            of(inits={name: "scratch"})
    assert "head-größe-1_v2.0+ema-1-0" in of(inits={"größe-1_v2.0+ema": "scratch"})
    with pytest.raises(ConfigError, match="two trials would share the folder head-scratch-0.123457-0"):
        of(fractions=[0.1234567, 0.1234568])
    assert len(of(fractions=[0.5, 0.5], seeds=[0, 0])) == 2  # the same trial twice is one
    with pytest.raises(ConfigError, match="tuned has no values for task view with initialisation scratch"):
        of(tuned={"head": {"scratch": {}}})
    with pytest.raises(ConfigError, match="no.yaml is not the best.yaml of a search"):
        of(tuned="no.yaml")
    missing = config_of(small_shards, tmp_path, inits={"pretrained": str(tmp_path / "none")},
                        finetune={k: v for k, v in VALUES.items() if k != "encoder"})  # fmt: skip
    with pytest.raises(CheckpointError, match="neither a pre-training run nor an exported model"):
        sweep.run(missing, Console())


def test_nested_values_are_merged(small_shards: Path, tmp_path: Path) -> None:
    inits = {"scratch": "scratch", "slow": {"optim": {"lr": 1e-5}, "tasks": ["head"]}}
    config = config_of(small_shards, tmp_path, per_task={"view": {"optim": {"lr": 5e-4}}}, inits=inits)
    made = {name: trial.config for name, trial in sweep.trials(config).items()}
    assert list(made) == ["head-scratch-0.5-0", "head-slow-0.5-0", "head-scratch-1-0", "head-slow-1-0",
                          "view-scratch-0.5-0", "view-scratch-1-0"]  # fmt: skip
    assert (made["view-scratch-1-0"].optim.lr, made["view-scratch-1-0"].optim.base_batch) == (5e-4, 8)
    assert made["head-scratch-1-0"].optim.lr == 1e-3
    assert (made["head-slow-1-0"].optim.lr, made["head-slow-1-0"].init) == (1e-5, "scratch")


def test_a_baseline_runs_at_its_own_fractions_and_tasks(small_shards: Path, tmp_path: Path) -> None:
    inits = {"scratch": "scratch", "unet": {"network": "unet", "tasks": "head", "fractions": [1]}}
    config = config_of(small_shards, tmp_path, fractions=[0.5, 1.0], inits=inits)
    assert [name for name in sweep.trials(config) if "unet" in name] == ["head-unet-1-0"]
    assert len(sweep.trials(config)) == 4 + 1


def test_labels_that_were_learnt_before_are_warned_of(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = {**VIEW, "canvas_px": 64}
    folds = {**view, "split_by": "folds"}
    for name, task in (("in_folds", folds), ("by_split", view)):
        first = FinetuneConfig.build({**VALUES, "steps": 2, "run_dir": str(tmp_path / name),
                                      "shards": str(small_shards), "task": task})  # fmt: skip
        finetune(first, PlainContext())
    inits = {"scratch": "scratch", "folds": f"{tmp_path}/in_folds/best", "split": f"{tmp_path}/by_split/best"}

    def stop(*_: object, **__: object) -> None:
        raise ConfigError("before the first trial")

    for module in (sweep_ends, finetune_job):
        monkeypatch.setattr(module, "open_run", stop)

    def warned(job, config) -> list[str]:
        with pytest.raises(ConfigError, match="before the first trial"):
            job.run(config, Console())
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]

    def by_sweep(**values) -> list[str]:
        return warned(sweep, config_of(small_shards, tmp_path, inits=inits, seeds=[0, 1], **values))

    best = {"view": dict.fromkeys(inits, {}) | {"split": {"optim": {"lr": 1e-2}}}}
    said = [f"! {name} ({inits[name]}) learnt from labels, which may be of patients that are tested in view; "
            for name in ("folds", "split")]  # fmt: skip
    told = by_sweep(tasks=[folds])
    assert [line[: len(start)] for line, start in zip(told, said, strict=True)] == said
    assert told[0].endswith(
        "start from a pre-training run, or use split_by=split on the same shards here and for what it began from"
    )
    *starts, search = by_sweep(
        tasks=[folds, {**folds, "name": "other"}], tuned={**best, "other": dict.fromkeys(inits, {})}
    )
    assert [line.replace("in view, other;", "in view;") for line in starts] == told
    assert search.startswith("! a search chose `tuned` of view by labels; in tasks with split_by=folds")
    # one test set, whose labels a bundle of the same split has not seen; one of folds may have
    assert by_sweep(tasks=[view], tuned=best) == told[:1]

    for name, start in inits.items():
        for task in (folds, view):
            asked = FinetuneJobConfig.build({**VALUES, "run_dir": str(tmp_path / "next"), "init": start,
                                             "shards": str(small_shards), "task": task})  # fmt: skip
            learnt = name == "folds" or (name == "split" and task is folds)
            assert finetune_job.plan(asked)["labels_before"] is learnt
            lines = [f"! {start} learnt from labels, which may be of patients that are tested; "] if learnt else []
            assert [line[: len(lines[0])] for line in warned(finetune_job, asked)] == lines


def test_a_seed_tests_its_own_fold(small_shards: Path, tmp_path: Path) -> None:
    folds = {**VIEW, "canvas_px": 64, "split_by": "folds"}
    config = config_of(small_shards, tmp_path, tasks=[folds], seeds=[0, 3, 7], fractions=[1.0])
    made = [trial.config for trial in sweep.trials(config).values()]
    assert [(trial.seed, trial.task.fold) for trial in made] == [(0, 0), (3, 3), (7, 2)]
    with pytest.raises(ConfigError, match=r"task view sets fold 1, which a sweep takes from each trial's seed"):
        sweep.trials(config_of(small_shards, tmp_path, tasks=[{**folds, "fold": 1}]))
