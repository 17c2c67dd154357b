"""`usfm export`: the encoder of a run as a bundle, its model card, and what others read of it."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from ray_jobs import export
from ray_jobs.console import Console
from ray_jobs.export import ExportConfig
from usfm.data.shards import ShardIndex
from usfm.errors import CheckpointError
from usfm.models.bundle import load_bundle, read_bundle_spec
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.inheritance import labels_behind, labels_of_tested
from usfm.train.journal import read_journal


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
    assert (spec.labels_behind, spec.labels_apart_on) == (False, None)


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
    spec, shards = read_bundle_spec(alone), ShardIndex.load(finetuned.shards).fingerprint
    assert (spec.labels_behind, spec.labels_apart_on) == (True, shards)
    assert labels_behind([str(alone)]) is True
    for source in (begun, alone):  # the bundle was trained on the same split of the same shards
        assert labels_of_tested(str(source), finetuned.task, finetuned.shards) is False


def test_an_export_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        export.plan(ExportConfig(run_dir=str(tmp_path)))
    assert export.main([str(tmp_path)]) == 2
    assert "run `usfm pretrain` first" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
