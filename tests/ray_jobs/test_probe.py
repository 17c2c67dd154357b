"""`usfm probe`: the document, the items, a random encoder beside it, paired differences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from shard_factory import HEAD, VIEW, row, write_rows

from ray_jobs.probe import main
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.rng import stream_key
from usfm.train.initial_weights import weights_hash

SHAPE = EncoderConfig(size="nano", img_px=32, patch_px=8)


def encoder(seed: int) -> Encoder:
    torch.manual_seed(stream_key(seed, "init"))
    return Encoder(SHAPE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_shards: Path) -> Path:
    """A bundle, a recipe, and the probe of the bundle in `probe`."""
    folder = tmp_path_factory.mktemp("probe_job")
    save_bundle(
        folder / "bundle", encoder(7), BundleSpec(kind="embedding", name="made", encoder=SHAPE, canvas_px=64)
    )
    recipe = {"shards": str(small_shards), "tasks": [HEAD, VIEW], "canvas_px": 64, "bootstrap": 50}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        main([str(folder / "bundle"), "--config", str(folder / "recipe.yaml"), f"output={folder / 'probe'}"]) == 0
    )
    return folder


def test_the_document_has_scores_rank_and_origin(folder: Path) -> None:
    document = json.loads((folder / "probe" / "probe.json").read_text())
    assert set(document["tasks"]) == {"head", "view", "organ"}
    assert document["weights"] == weights_hash(folder / "bundle")
    assert 1 <= document["rank"]["rankme"] <= document["rank"]["width"] == 96
    for task in document["tasks"].values():
        for score in task["scores"].values():
            assert 0 <= score["low"] <= score["value"] + 1e-9 <= score["high"] + 2e-9 <= 1 + 3e-9
    assert document["tasks"]["view"]["scored_by_class"] == {"bright": 8, "dark": 8}


def test_every_item_is_kept_and_gives_the_score(folder: Path) -> None:
    document = json.loads((folder / "probe" / "probe.json").read_text())
    with np.load(folder / "probe" / "predictions.npz") as items:
        truth, predicted = items["view/truth"], items["view/linear"]
        recall = np.mean([(predicted[truth == k] == k).mean() for k in (0, 1)])
        assert document["tasks"]["view"]["scores"]["linear_balanced_accuracy"]["value"] == pytest.approx(recall)
        assert len(items["view/id"]) == len(items["view/group"]) == len(truth) == 16
        dice = document["tasks"]["head"]["scores"]["linear_dice"]["value"]
        assert items["head/linear_dice"].mean() == pytest.approx(dice)


def test_a_random_encoder_is_the_start_of_a_run_of_that_seed(folder: Path) -> None:
    """Seed 7 is what the bundle holds, so nothing differs; seed 8 does, on the same items."""
    same, other = folder / "random7", folder / "random8"
    common = [str(folder / "bundle"), "--config", str(folder / "recipe.yaml"), "init=random"]
    against = f"against=[{folder / 'probe'}]"
    assert main([*common, "seed=7", f"output={same}", against]) == 0
    assert main([*common, "seed=8", f"output={other}", against]) == 0
    first, second, third = (np.load(f / "predictions.npz") for f in (folder / "probe", same, other))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(first["view/id"], third["view/id"])
    assert not all(np.array_equal(first[name], third[name]) for name in first)
    gaps = json.loads((same / "probe.json").read_text())["against"][str(folder / "probe")]
    assert all(gap == {"value": 0, "low": 0, "high": 0} for task in gaps.values() for gap in task.values())
    documents = [json.loads((f / "probe.json").read_text())["tasks"]["head"] for f in (other, folder / "probe")]
    expected = documents[0]["scores"]["linear_dice"]["value"] - documents[1]["scores"]["linear_dice"]["value"]
    gaps = json.loads((other / "probe.json").read_text())["against"][str(folder / "probe")]
    assert gaps["head"]["linear_dice"]["value"] == pytest.approx(expected)


def test_probes_of_other_items_are_not_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "bundle"), "--config", str(folder / "recipe.yaml"), "rows_per_class=2",
                 f"output={folder / 'few'}", f"against=[{folder / 'probe'}]"]) == 2  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert "scored other items of task head" in said


def test_a_dry_run_says_rows_and_protocol_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder / "bundle"), "--config", str(folder / "recipe.yaml"), "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out.split("--- plan\n")[1])
    assert plan["tasks"]["view"] == {"rows": 56, "held_out": 16, "protocol": "split", "groups": 28, "left_out": {},
                                     "unlisted": {}}  # fmt: skip
    assert plan["output"] == str(folder / "bundle" / "probe")
    assert not (folder / "bundle" / "probe").exists()


def test_labels_of_no_class_are_refused_or_counted_in_the_plan_the_document_and_on_the_console(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("heart", split, n) for split, count in (("train", 12), ("val", 8)) for n in range(count)]
    shards = write_rows(tmp_path / "shards", [*rows, row("heart", "train", 40) | {"label": "covid"}])
    common = [str(folder / "bundle"), f"shards={shards}", "canvas_px=64", "bootstrap=0", "organ=false"]
    assert main([*common, f"tasks=[{json.dumps(VIEW)}]", f"output={tmp_path / 'refused'}"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "probe task view: row made/heart/train_040.png#0 says 'covid': label 'covid' is of no class" in said
    assert not (tmp_path / "refused").exists()
    lenient = [*common, f"tasks=[{json.dumps(VIEW | {'unlisted': 'leave_out'})}]", f"output={tmp_path / 'out'}"]
    assert main([*lenient, "--dry-run"]) == 0
    counts = {"label 'covid' is of no class": 1}
    assert json.loads(capsys.readouterr().out.split("--- plan\n")[1])["tasks"]["view"]["unlisted"] == counts
    assert main(lenient) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "probe task view leaves out: label 'covid' is of no class (1 row)" in said
    assert json.loads((tmp_path / "out" / "probe.json").read_text())["tasks"]["view"]["unlisted"] == counts


def test_nothing_to_probe_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "no source" in capsys.readouterr().out
