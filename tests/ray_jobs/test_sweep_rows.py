"""What of the rows `usfm sweep`, `usfm finetune` and `usfm evaluate` leave out, and how they say it."""

import shutil
from pathlib import Path

import pytest
from shard_factory import VIEW, row, write_rows

from ray_jobs import evaluate, sweep, sweep_ends
from ray_jobs import finetune as finetune_job
from ray_jobs.console import Console
from ray_jobs.evaluate import EvaluateConfig
from ray_jobs.finetune import FinetuneJobConfig
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_split, load_task
from usfm.errors import ConfigError, DataError
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune

VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}, "steps": 2, "batch_size": 8,
    "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8},
}  # fmt: skip
LEAVES = {**VIEW, "canvas_px": 64, "unlisted": "leave_out"}
REFUSES = {**VIEW, "canvas_px": 64}
SAID = "! task view leaves out: label 'aa' is of no class (3 rows)"


@pytest.fixture(scope="module")
def misspelt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hearts of which two training rows and one test row are labelled "aa" instead of "a"."""
    rows = [
        row("heart", split, n) for split, count in (("train", 24), ("val", 8), ("test", 8)) for n in range(count)
    ]
    for number in (1, 3, 33):
        rows[number]["label"] = "aa"
    return write_rows(tmp_path_factory.mktemp("misspelt"), rows)


def sweep_of(shards: Path, run_dir: Path, *tasks: dict, **values) -> sweep.SweepConfig:
    return sweep.SweepConfig.build({
        "run_dir": str(run_dir), "shards": str(shards), "inits": {"scratch": "scratch"}, "fractions": [1.0],
        "seeds": [0], "finetune": VALUES, "tasks": list(tasks), **values,
    })  # fmt: skip


def finetune_of(shards: Path, run_dir: Path, task: dict) -> FinetuneJobConfig:
    return FinetuneJobConfig.build({**VALUES, "run_dir": str(run_dir), "shards": str(shards), "task": task})


def test_a_misspelt_label_is_refused_with_its_row_before_anything_is_written(
    misspelt: Path, tmp_path: Path
) -> None:
    said = r"task view: row made/heart/train_001.png#0 says 'aa': .*\(bright: 'a'; dark: 'b'\).*unlisted: leave_out"
    with pytest.raises(DataError, match=said):
        finetune_job.run(finetune_of(misspelt, tmp_path / "run", REFUSES), Console())
    with pytest.raises(DataError, match=said):
        sweep.run(sweep_of(misspelt, tmp_path / "sweep", REFUSES), Console())
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_out_is_in_the_plans_and_on_the_console(
    misspelt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finetune_of(misspelt, tmp_path / "run", LEAVES)
    aa = "label 'aa' is of no class"
    assert finetune_job.plan(config)["left_out"] == {"train": {aa: 2}, "test": {aa: 1}}
    named = {**REFUSES, "name": "named", "classes": {"bright": ["a", "aa"], "dark": ["b"]}}
    in_folds = {**LEAVES, "name": "folds", "split_by": "folds", "folds": 4}
    table = sweep_of(misspelt, tmp_path / "sweep", LEAVES, named, in_folds, seeds=[0, 1])
    assert sweep.plan(table)["left_out"] == {"view": {"train": {aa: 2}, "test": {aa: 1}}, "folds": {"all": {aa: 3}}}

    def stop(*_: object, **__: object) -> None:
        raise ConfigError("before the first step")

    for module in (finetune_job, sweep_ends):
        monkeypatch.setattr(module, "open_run", stop)

    def warned(job, asked) -> list[str]:
        with pytest.raises(ConfigError, match="before the first step"):
            job.run(asked, Console())
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]

    assert warned(finetune_job, config) == [SAID]
    assert warned(sweep, table) == [SAID, SAID.replace("view", "folds")]


def test_every_fold_that_is_tested_is_checked_before_a_trial_starts(tmp_path: Path) -> None:
    """Ten patients; one alone shows the class "rare", which cannot be learnt where its fold tests or validates."""
    rows = [{**row("heart", "train", n), "label": "c" if n < 2 else "ab"[n // 2 % 2]} for n in range(20)]
    shards = write_rows(tmp_path / "shards", rows)
    classes = {**VIEW["classes"], "rare": ["c"]}
    folds = {**VIEW, "canvas_px": 64, "classes": classes, "split_by": "folds", "folds": 4}
    tasks = [TaskConfig.build({**folds, "fold": fold}) for fold in range(4)]
    number = next(fold for fold in range(4) if 2 in load_split(str(shards), tasks[fold], "test").label)
    fit = [fold for fold in range(4) if fold not in (number, (number - 1) % 4)]
    broken = sweep_of(shards, tmp_path / "sweep", folds, seeds=[*fit, number])
    said = rf"class 'rare' has no training rows in .* \(fold {number} of 4\); .* in a sweep seeds that test others"
    with pytest.raises(DataError, match=said):
        sweep.run(broken, Console())
    assert not (tmp_path / "sweep").exists()
    planned = sweep.plan(broken.model_copy(update={"seeds": fit}))
    first = load_task(str(shards), tasks[fit[0]])
    assert planned["items"] == {"view": {split: len(data) for split, data in first.items()}}
    assert planned["trials"] == 2


def test_a_bundle_is_scored_on_shards_with_further_labels_where_that_is_asked_for(
    small_shards: Path, misspelt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finetune_of(small_shards, tmp_path / "run", REFUSES).science()
    finetune(config, PlainContext())
    shutil.copytree(tmp_path / "run" / "best", tmp_path / "alone")
    asked = EvaluateConfig(
        model=str(tmp_path / "alone"), shards=str(misspelt), task=config.task, split="all", robustness=False
    )
    with pytest.raises(DataError, match=r"row made/heart/test_001.png#0 says 'aa'"):
        evaluate.run(asked, Console())
    lenient = asked.model_copy(update={"unlisted": "leave_out"})
    assert evaluate.plan(lenient)["items"] == 40 - 3
    evaluate.run(lenient, Console())
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")] == [SAID]
    assert load_task(str(small_shards), config.task)["train"].left_out == {}


def test_tuned_values_are_warned_of_where_their_search_may_have_seen_tested_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search over both clinics by ingest's split: of a source that is tested, its validation labels chose."""
    rows = [
        row("heart", split, n) | {"source": of, "group": f"{of}/{split}{n // 2}", "id": f"{of}/{split}{n}"}
        for of in "AB" for split in ("train", "val", "test") for n in range(8)
    ]  # fmt: skip
    shards = write_rows(tmp_path / "shards", rows)
    by_source = {**REFUSES, "split_by": "source", "train_sources": ["A"], "test_sources": ["B"]}

    def stop(*_: object, **__: object) -> None:
        raise ConfigError("before the first step")

    monkeypatch.setattr(sweep_ends, "open_run", stop)
    for task, warned in ((REFUSES, False), (by_source, True), ({**REFUSES, "split_by": "folds"}, True)):
        tuned = {"view": {"scratch": {"optim": {"lr": 1e-2}}}}
        with pytest.raises(ConfigError, match="before the first step"):
            sweep.run(sweep_of(shards, tmp_path / "sweep", task, tuned=tuned), Console())
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! ")]
        assert [line.split(" by labels; ")[0] for line in lines] == ["! a search chose `tuned` of view"] * warned
