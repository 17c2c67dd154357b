import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from shard_factory import HEAD, VIEW

from ray_jobs import evaluate, export
from ray_jobs.console import Console
from ray_jobs.evaluate import EvaluateConfig
from ray_jobs.export import ExportConfig
from usfm.data.stream import ImageStream
from usfm.data.tasks import load_task
from usfm.errors import CheckpointError, ConfigError
from usfm.metrics.evaluation import evaluate as score
from usfm.models.bundle import load_bundle
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.context import PlainContext, best_device
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
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
    for row in read_journal(pretrained):
        counts.update(row["organ_count"])
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


def test_an_export_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        export.plan(ExportConfig(run_dir=str(tmp_path)))
    assert export.main([str(tmp_path)]) == 2
    assert "run `usfm pretrain` first" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_files_hold_the_scores(finetuned: FinetuneConfig, split: str) -> None:
    run_dir = Path(finetuned.run_dir)
    folder = evaluate.run(EvaluateConfig(run_dir=str(run_dir), split=split), Console())
    assert folder == run_dir / f"evaluation-{split}"
    device = best_device()
    model, spec = load_bundle(run_dir / "best", device)
    data = load_task(finetuned.shards, finetuned.task)[split]
    expected = score(model, data, finetuned.task, spec.img_px, device)
    document = json.loads((folder / "evaluation.json").read_text())
    assert document == {
        **expected.to_json(), "version": spec.version, "split": split, "shards": finetuned.shards
    }  # fmt: skip
    with (folder / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{key: str(value) for key, value in item.items()} for item in expected.per_item]
    assert [row["id"] for row in rows] == data.ids


def test_the_test_score_is_that_of_the_run(finetuned: FinetuneConfig, tmp_path: Path) -> None:
    folder = evaluate.run(EvaluateConfig(run_dir=finetuned.run_dir, output=str(tmp_path / "out")), Console())
    kept = json.loads((Path(finetuned.run_dir) / "result.json").read_text())
    assert json.loads((folder / "evaluation.json").read_text())["value"] == kept["value"]


def test_a_pretraining_run_has_nothing_to_evaluate(pretrained: Path) -> None:
    with pytest.raises(ConfigError, match="is not a fine-tuning run"):
        evaluate.plan(EvaluateConfig(run_dir=str(pretrained)))
