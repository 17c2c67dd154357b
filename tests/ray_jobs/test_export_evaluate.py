import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from shard_factory import HEAD, VIEW, row, write_rows

from ray_jobs import evaluate, export
from ray_jobs.console import Console
from ray_jobs.evaluate import EvaluateConfig
from ray_jobs.export import ExportConfig
from usfm.data import tasks
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import write_index, write_shard
from usfm.data.stream import ImageStream
from usfm.data.tasks import TaskConfig, load_task
from usfm.errors import CheckpointError, ConfigError, DataError
from usfm.metrics.evaluation import evaluate as score
from usfm.models.bundle import OURS, SPEC, load_bundle, read_bundle_spec
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.context import PlainContext, best_device
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.inheritance import labels_behind
from usfm.train.journal import read_journal
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan
from usfm.train.rundir import open_run

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}


@pytest.fixture(scope="module")
def pretrained(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run of four steps on two of the three organs."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = PretrainConfig.build({
        "run_dir": str(folder), "encoder": ENCODER, "objective": {"spatial_mask": {"unit_px": 8}},
        "data": {"shards": str(small_shards), "canvas_px": 64,
                 "sampling": {"chunk_size": 24, "exclude_organs": ["kidney"]}},
        "batch": {"global_size": 8, "micro_size": 8}, "epochs": 1, "epoch_samples": 32, "optim": {"lr": 0.01},
    })  # fmt: skip
    plan = PretrainPlan.derive(config, ImageStream(config.data, config.seed), 1)
    open_run(folder, config, plan.to_json())
    context = PlainContext(torch.device("cpu"))
    pretrain(config, context, lambda stream, made: local_feed(stream, made, config, context))
    return folder


@pytest.fixture(scope="module", params=[HEAD, VIEW], ids=["segmentation", "classification"])
def finetuned(
    request: pytest.FixtureRequest, small_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinetuneConfig:
    """A fine-tuning run of a few steps."""
    folder = tmp_path_factory.mktemp("finetuned")
    config = FinetuneConfig.build({
        "run_dir": str(folder), "shards": str(small_shards), "task": {**request.param, "canvas_px": 64},
        "encoder": ENCODER, "steps": 6, "batch_size": 8, "eval_every": 3, "optim": {"lr": 1e-3, "base_batch": 8},
    })  # fmt: skip
    open_run(folder, config, {})
    finetune(config, PlainContext())
    return config


def test_the_exported_encoder_is_that_of_the_checkpoint(pretrained: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert export.run(ExportConfig(run_dir=str(pretrained), output=str(output), name="us"), Console()) == output
    encoder, spec = load_bundle(output)
    saved = load_file(latest_checkpoint(pretrained) / "model.safetensors")
    trained = {k.removeprefix("encoder."): v for k, v in saved.items() if k.startswith("encoder.")}
    own = encoder.state_dict()
    assert set(own) == set(trained)
    assert all(torch.equal(own[name], trained[name]) for name in own)
    assert (spec.kind, spec.name, spec.encoder.size) == ("embedding", "us", "nano")
    assert spec.licences == ["CC0-1.0"]
    assert spec.trained_on == {"made": 24 + 40}  # training rows, without the excluded organ
    assert spec.metrics == {"pretraining_samples": 32}
    assert spec.labels_behind is False


def test_an_export_is_repeatable_and_goes_into_the_run_by_default(pretrained: Path, tmp_path: Path) -> None:
    config = ExportConfig(run_dir=str(pretrained))
    assert export.run(config, Console()) == pretrained / "encoder"
    again = export.run(config.model_copy(update={"output": str(tmp_path)}), Console())
    assert load_bundle(again)[1] == load_bundle(pretrained / "encoder")[1]


def test_an_export_is_for_timm_and_onnxruntime_too_and_has_a_model_card(pretrained: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    output = tmp_path / "bundle"
    export.run(ExportConfig(run_dir=str(pretrained), output=str(output), onnx=True), Console())
    assert {path.name for path in output.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "model.onnx",
    }
    encoder, spec = load_bundle(output)
    x = torch.rand(3, 1, 32, 32)
    theirs = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    session = onnxruntime.InferenceSession(str(output / "model.onnx"), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        tokens = encoder(x)
        assert torch.allclose(theirs.forward_features((x - 0.449) / 0.226), tokens, atol=1e-6)
    assert torch.allclose(torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), tokens, atol=1e-4)
    card = (output / "README.md").read_text().splitlines()
    counts = Counter()
    for step in read_journal(pretrained):
        counts.update(step["organ_count"])
    plan = json.loads((pretrained / "plan.json").read_text())
    for organ, share in plan["organ_shares"].items():
        rows, drawn = plan["rows_by_organ"][organ], counts[organ]
        assert f"| {organ} | {rows} | {share:.4f} | {drawn} | {drawn / 32:.4f} |" in card
    assert f"| made | CC0-1.0 |  | {24 + 40} |" in card
    assert "| images seen, with those of a run that this one continues | 32 |" in card
    assert f"| encoder parameters | {sum(p.numel() for p in encoder.parameters()):,} |" in card
    assert any(spec.version in line for line in card)


def test_the_card_is_that_of_the_checkpoint_while_the_run_goes_on(pretrained: Path, tmp_path: Path) -> None:
    """The run has written rows since, and its file lacks the last row that the checkpoint kept."""
    run_dir, before = tmp_path / "run", tmp_path / "before"
    shutil.copytree(pretrained, run_dir)
    export.run(ExportConfig(run_dir=str(run_dir), output=str(before)), Console())
    journal, state_file = run_dir / "metrics.jsonl", run_dir / "step-00000004" / "state.json"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    state = json.loads(state_file.read_text())
    state_file.write_text(json.dumps(state | {"unwritten": rows[3:]}))
    later = rows[3] | {"step": 5, "samples": 40, "organ_count": {"heart": 8}, "probe/view/knn_macro_f1": 0.5}
    journal.write_text("".join(json.dumps(row) + "\n" for row in [*rows[:3], later]))
    export.run(ExportConfig(run_dir=str(run_dir), output=str(tmp_path / "after")), Console())
    assert (tmp_path / "after" / "README.md").read_text() == (before / "README.md").read_text()


def test_an_export_says_that_its_run_began_from_labels(
    pretrained: Path, finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(pretrained, begun)
    config = yaml.safe_load((begun / "config.yaml").read_text())
    config["start"] = {"source": f"{finetuned.run_dir}/best", "take": "encoder"}
    (begun / "config.yaml").write_text(yaml.safe_dump(config))
    alone = export.run(ExportConfig(run_dir=str(begun), output=str(tmp_path / "alone")), Console())
    assert read_bundle_spec(alone).labels_behind is True
    assert labels_behind([str(alone)]) is True


def test_an_export_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        export.plan(ExportConfig(run_dir=str(tmp_path)))
    assert export.main([str(tmp_path)]) == 2
    assert "run `usfm pretrain` first" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


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


def test_a_bundle_of_a_fold_is_not_scored_on_patients_that_it_was_trained_on(
    finetuned: FinetuneConfig, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(finetuned.run_dir, run_dir)
    spec = json.loads((run_dir / "best" / SPEC).read_text())
    (spec.get(OURS) or spec)["metrics"]["fold"] = 1
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


def test_a_bundle_of_another_kind_is_refused(finetuned: FinetuneConfig) -> None:
    wrong = TaskConfig.build({**(VIEW if finetuned.task.kind == "segmentation" else HEAD), "canvas_px": 64})
    with pytest.raises(ConfigError, match="the task is"):
        evaluate.run(EvaluateConfig(model=finetuned.run_dir, task=wrong), Console())


def test_a_pretraining_run_has_nothing_to_evaluate(pretrained: Path) -> None:
    with pytest.raises(CheckpointError, match="no model bundle"):
        evaluate.plan(EvaluateConfig(model=str(pretrained)))
