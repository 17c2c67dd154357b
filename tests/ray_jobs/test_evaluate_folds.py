"""A bundle of a fold is scored on that fold alone: it has seen the patients of all others."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from shard_factory import VIEW, row, write_rows

from ray_jobs import evaluate
from ray_jobs.evaluate import EvaluateConfig
from usfm.data import tasks
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import ConfigError, DataError
from usfm.models.bundle import OURS, SPEC
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import open_run

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}


def test_a_bundle_of_a_fold_is_not_scored_on_patients_that_it_was_trained_on(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finetuned.run_dir, run_dir)
    spec = json.loads((run_dir / "best" / SPEC).read_text())
    metrics = (spec.get(OURS) or spec)["metrics"]
    metrics["fold"] = 1
    del metrics["shards_fingerprint"]  # as before it was kept
    (run_dir / "best" / SPEC).write_text(json.dumps(spec))
    task = finetuned.task.model_copy(update={"split_by": "folds", "folds": 3})
    (run_dir / "config.yaml").write_text(finetuned.model_copy(update={"task": task}).to_yaml())
    tested = load_task(finetuned.shards, task.model_copy(update={"fold": 1}))["test"]
    assert evaluate.plan(EvaluateConfig(model=str(run_dir)))["items"] == len(tested)
    for elsewhere in ({"sources": ["made"]}, {"shards": str(tmp_path)}):
        with pytest.raises(ConfigError, match="was trained on other folds of its shards"):
            evaluate.plan(EvaluateConfig(model=str(run_dir), **elsewhere))
    assert evaluate.plan(EvaluateConfig(model=str(run_dir), sources=["made"], split="all"))["items"] > len(tested)


def run_of_a_fold(shards: Path, run_dir: Path) -> TaskConfig:
    """A run that trained on two of three folds of some shards; returns its task."""
    task = TaskConfig.build({**VIEW, "canvas_px": 64, "split_by": "folds", "folds": 3, "fold": 1})
    config = FinetuneConfig.build({
        "run_dir": str(run_dir), "shards": str(shards), "task": task, "encoder": ENCODER, "steps": 1,
        "batch_size": 8, "eval_every": 1, "optim": {"lr": 1e-3, "base_batch": 8},
    })  # fmt: skip
    open_run(run_dir, config, {})
    finetune(config, PlainContext())
    return task


def test_shards_of_a_fold_are_known_by_whatever_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial states an absolute path, its sweep a relative one, and a bundle that was copied out none."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "shards", [row("heart", "train", n) for n in range(24)])
    sweep, trial = tmp_path / "sweep", tmp_path / "sweep" / "trials" / "one"
    task = run_of_a_fold(tmp_path / "shards", trial)
    unfolded = task.model_copy(update={"fold": 0}).model_dump(mode="json")
    (sweep / "config.yaml").write_text(yaml.safe_dump({"shards": "shards", "tasks": [unfolded]}))
    shutil.copytree(trial / "best", sweep / "best" / "view")
    shutil.copytree(trial / "best", tmp_path / "alone")
    for bundle, forget in (("before", ["shards_fingerprint"]), ("long_before", ["shards_fingerprint", "dealt"])):
        shutil.copytree(trial / "best", tmp_path / bundle)
        spec = json.loads((tmp_path / bundle / SPEC).read_text())
        assert all(spec["metrics"].pop(key) for key in forget)
        (tmp_path / bundle / SPEC).write_text(json.dumps(spec))
    tested = len(load_task("shards", task)["test"])
    split = task.model_copy(update={"split_by": "split", "folds": 5, "fold": 0})
    places = [trial / "best", sweep / "best" / "view", *(tmp_path / name for name in ("alone", "before"))]
    for bundle in places:
        for shards in ("shards", str(tmp_path / "shards")):
            asked = EvaluateConfig(model=str(bundle), shards=shards, task=task)
            assert evaluate.plan(asked)["items"] == tested
            with pytest.raises(
                ConfigError, match=r"was trained in folds.*split_by=split: .*split=all and data that"
            ):
                evaluate.plan(asked.model_copy(update={"task": split}))
    shutil.copytree(tmp_path / "shards", tmp_path / "moved")  # the same ones at another place
    moved = EvaluateConfig(model=str(places[0]), shards="moved", task=task)
    assert evaluate.plan(moved)["items"] == tested
    with pytest.raises(ConfigError, match="was trained in folds, the task has split_by=split"):
        evaluate.plan(moved.model_copy(update={"task": split}))
    oldest = EvaluateConfig(model=str(tmp_path / "long_before"), shards="shards", task=task)
    with pytest.raises(
        ConfigError, match="neither it nor a run or sweep around it says of which shards.*split=all"
    ):
        evaluate.plan(oldest)
    assert evaluate.plan(oldest.model_copy(update={"split": "all"}))["items"] == 24
    index = json.loads((tmp_path / "moved" / "index.json").read_text())
    (tmp_path / "moved" / "index.json").write_text(json.dumps(index | {"fingerprint": "other"}))
    with pytest.raises(ConfigError, match="was trained on other folds of its shards"):
        evaluate.plan(moved)
    with pytest.raises(DataError, match="no test rows"):
        evaluate.plan(moved.model_copy(update={"task": split}))  # others' test split is no fold


def test_a_fold_of_shards_that_were_ingested_anew_is_refused(tmp_path: Path) -> None:
    """More patients are dealt anew: some that the bundle was trained on would be in its fold."""
    shards, run_dir = tmp_path / "shards", tmp_path / "run"
    rows = [row("heart", "train", n) for n in range(24)]
    write_rows(shards, rows)
    task = run_of_a_fold(shards, run_dir)
    sets = load_task(str(shards), task)
    seen = {*sets["train"].groups, *sets["val"].groups}
    asked = EvaluateConfig(model=str(run_dir))
    assert evaluate.plan(asked)["items"] == len(sets["test"])
    split = task.model_copy(update={"split_by": "split", "folds": 5, "fold": 0})
    with pytest.raises(ConfigError, match="was trained in folds, the task has split_by=split"):
        evaluate.plan(asked.model_copy(update={"task": split}))
    with pytest.raises(ConfigError, match="dealt into other folds"):
        evaluate.plan(asked.model_copy(update={"task": task.model_copy(update={"folds": 4})}))

    shards.rename(tmp_path / "before")
    write_rows(shards, [*rows, *(row("heart", "val", n) for n in range(6))])
    for cache in (tasks._deal, tasks._load_fold):  # another process has read nothing yet
        cache.cache_clear()
    assert seen & set(load_task(str(shards), task)["test"].groups)
    with pytest.raises(ConfigError, match=r"dealt into other folds \(digest \w{12}, now \w{12}\).*split=all"):
        evaluate.plan(asked)
    assert evaluate.plan(asked.model_copy(update={"split": "all"}))["items"] == 30
    # a bundle from before the digest was kept does not say
    spec = run_dir / "best" / SPEC
    document = json.loads(spec.read_text())
    del document["metrics"]["dealt"]
    spec.write_text(json.dumps(document))
    assert evaluate.plan(asked)["items"] > 0


def test_a_task_in_folds_is_nothing_for_a_bundle_that_was_not_trained_so(finetuned: FinetuneConfig) -> None:
    task = finetuned.task.model_copy(update={"split_by": "folds", "folds": 3})
    with pytest.raises(ConfigError, match="was not trained in folds"):
        evaluate.plan(EvaluateConfig(model=finetuned.run_dir, task=task))
