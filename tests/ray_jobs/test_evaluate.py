"""`usfm evaluate`: files, page and scores, on the shards of the run or on others."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from shard_factory import HEAD, VIEW, row

from ray_jobs import evaluate
from ray_jobs.console import Console
from ray_jobs.evaluate import EvaluateConfig
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import write_index, write_shard
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import CheckpointError, ConfigError
from usfm.metrics.evaluation import evaluate as score
from usfm.models.bundle import load_bundle
from usfm.train.context import best_device
from usfm.train.finetune_config import FinetuneConfig


def test_evaluation_files_hold_the_scores(finetuned: FinetuneConfig) -> None:
    run_dir = Path(finetuned.run_dir)
    folder = evaluate.run(EvaluateConfig(model=str(run_dir), split="val"), Console())
    assert folder == run_dir / "evaluation-val"
    device = best_device()
    model, spec = load_bundle(run_dir / "best", device)
    data = load_task(finetuned.shards, finetuned.task)["val"]
    expected = score(model, data, finetuned.task, spec.img_px, device)
    document = json.loads((folder / "evaluation.json").read_text())
    assert document == {
        **expected.to_json(), "version": spec.version, "split": "val", "shards": finetuned.shards
    }  # fmt: skip
    items = pd.read_parquet(folder / "items.parquet")
    assert items.id.tolist() == data.ids
    assert items.value.tolist() == [item["value"] for item in expected.per_item]
    assert pd.read_csv(folder / "items.csv").value.tolist() == pytest.approx(items.value.tolist())
    patients = pd.read_csv(folder / "patients.csv")
    assert sorted(patients.group) == sorted(set(data.groups))
    assert patients["items"].sum() == len(data)
    robustness = pd.read_csv(folder / "robustness.csv")
    assert robustness.value[0] == pytest.approx(expected.value)
    assert len(robustness) == 1 + 6 * 3
    page = (folder / "report.html").read_text()
    assert f"{expected.value:.3f}" in page
    assert page.count("data:image/png;base64") >= len(set(data.groups))  # one worst image of each patient
    assert 'id="robustness"' in page
    assert "<script" not in page


def test_the_test_score_is_that_of_the_run(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    config = EvaluateConfig(model=finetuned.run_dir, output=str(tmp_path / "out"), robustness=False)
    folder = evaluate.run(config, Console())
    kept = json.loads((Path(finetuned.run_dir) / "result.json").read_text())
    assert json.loads((folder / "evaluation.json").read_text())["value"] == kept["value"]
    assert "Not asked for (<code>robustness=true</code>" in (folder / "report.html").read_text()


def test_a_bundle_alone_is_scored_on_other_shards(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    """Its task has to be given; shards with a test split alone and an unknown source are enough."""
    bundle = tmp_path / "alone"
    shutil.copytree(Path(finetuned.run_dir) / "best", bundle)
    with pytest.raises(ConfigError, match="says which task it is for; give task="):
        evaluate.plan(EvaluateConfig(model=str(bundle)))
    organ = finetuned.task.organs[0]
    rows = [{**row(organ, "test", n), "source": "elsewhere" if n else "made"} for n in range(4)]
    other = tmp_path / "shards"
    table = pa.Table.from_pylist(rows, ROW_SCHEMA)
    write_index(other, "other", [write_shard(other, f"test/{organ}/00000.arrow", "test", organ, table)])
    config = EvaluateConfig(
        model=str(bundle), shards=str(other), task=finetuned.task, split="all", robustness=False
    )
    folder = evaluate.run(config, Console())
    assert folder == bundle / "evaluation-all"
    page = (folder / "report.html").read_text()
    assert page.count("none of it trained the head") == 1  # "elsewhere"
    assert page.count("images of it trained the head, perhaps these among them") == 1  # split=all: nobody knows
    config = config.model_copy(update={"sources": ["elsewhere"], "output": str(tmp_path / "out")})
    assert evaluate.plan(config)["items"] == 3


def test_a_bundle_of_another_kind_is_refused(finetuned: FinetuneConfig) -> None:
    wrong = TaskConfig.build({**(VIEW if finetuned.task.kind == "segmentation" else HEAD), "canvas_px": 64})
    with pytest.raises(ConfigError, match="the task is"):
        evaluate.run(EvaluateConfig(model=finetuned.run_dir, task=wrong), Console())


def test_a_pretraining_run_has_nothing_to_evaluate(pretrained: Path) -> None:
    with pytest.raises(CheckpointError, match="no model bundle"):
        evaluate.plan(EvaluateConfig(model=str(pretrained)))
