"""Whole runs of several labels, numbers, images, baselines and other heads: they learn, and say what they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_factory import HEAD, VIEW, png, row, write_rows

from usfm.errors import DataError
from usfm.models.bundle import load_bundle, read_bundle_spec
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}
SEVERAL = {"name": "several", "kind": "multilabel", "organs": ["heart"],
           "classes": {"bright": ["a"], "marked": ["marked"]}, "unlisted": "leave_out"}  # fmt: skip
GREY = {"name": "grey", "kind": "regression", "organs": ["heart"], "target": "grey", "unit": "levels"}
CLEAN = {"name": "clean", "kind": "enhancement", "organs": ["fetal_head"],
         "degrade": {"chance": 1.0, "contrast": [2.4, 2.5], "speckle": [0, 0], "gain": [0, 0], "shadow": [0, 0],
                     "blur": [0, 0], "resolution": [1, 1]}}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hearts whose label says: bright or dark, with a white mark or not, and their grey value."""
    rows = []
    for split, count in (("train", 32), ("val", 8), ("test", 8)):
        for n in range(count):
            one = row("heart", split, n)
            grey = 40 + 120 * np.random.default_rng([n, count]).random() if split == "train" else 60 + 12 * n
            pixels = np.random.default_rng(n).normal(grey, 8, (one["height"], one["width"])).clip(0, 255)
            kind, mark = "a" if grey > 100 else "b", "marked" if n % 4 in (1, 2) else "plain"
            if mark == "marked":
                pixels[10:22, 10:22] = 255
            one |= {"label": f"{kind}; {mark}; grey={grey:.1f}", "image": png(pixels.astype(np.uint8))}
            rows.append(one)
    return write_rows(tmp_path_factory.mktemp("kinds"), rows)


def run(shards: Path, folder: Path, task: dict, **values) -> tuple[dict, list[dict]]:
    base = {"shards": str(shards), "run_dir": str(folder), "task": {**task, "canvas_px": 64}, "encoder": ENCODER,
            "steps": 60, "batch_size": 8, "eval_every": 20, "optim": {"lr": 2e-3, "base_batch": 8}}  # fmt: skip
    context = PlainContext(torch.device("cpu"))
    return finetune(FinetuneConfig.build(base | values), context), context.reports


def test_several_labels_are_learnt(shards: Path, tmp_path: Path) -> None:
    result, reports = run(shards, tmp_path, SEVERAL, balance="class_weights")
    assert (result["metric"], result["value"] > 0.9) == ("auroc", True)
    assert result["val_value"] == max(row["val_value"] for row in reports)
    assert read_bundle_spec(tmp_path / "best").classes == ["bright", "marked"]


def test_a_number_is_learnt_and_the_least_error_is_kept(shards: Path, tmp_path: Path) -> None:
    result, reports = run(shards, tmp_path, GREY, head={"name": "attentive"})
    assert result["metric"] == "mae"
    assert result["val_value"] == min(row["val_value"] for row in reports)
    spread = np.abs(np.arange(8) * 12 - 42).mean()  # of the test set's numbers around their mean
    assert result["value"] < 0.5 * spread
    spec = read_bundle_spec(tmp_path / "best")
    assert (spec.kind, spec.unit, spec.target, spec.head) == ("regression", "levels", "grey", "attentive")


def test_numbers_that_are_all_the_same_are_refused(small_shards: Path, tmp_path: Path) -> None:
    task = {**GREY, "organs": ["fetal_head"], "target": "mask_area", "unit": "px2"}  # discs of one size
    with pytest.raises(DataError, match="expected finite numbers that differ"):
        run(small_shards, tmp_path, task)


def test_images_get_better(small_shards: Path, tmp_path: Path) -> None:
    result, _ = run(small_shards, tmp_path, CLEAN, steps=40, eval_every=40, restoration={"structure": 0.0})
    items = json.loads((tmp_path / "best" / "evaluation.json").read_text())["per_item"]
    assert (result["metric"], len(items)) == ("psnr", 6)
    assert result["value"] > np.mean([item["psnr_input"] for item in items]) + 1


def test_a_resnet_stands_in_the_same_table(small_shards: Path, tmp_path: Path) -> None:
    result, _ = run(small_shards, tmp_path, VIEW, network="resnet18", steps=30, eval_every=30)
    assert result["value"] > 0.9
    model, spec = load_bundle(tmp_path / "best")
    assert (spec.network, spec.encoder, spec.img_px, spec.head) == ("resnet18", None, 32, "")
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 2)


@pytest.mark.parametrize("head", ["upernet", "mask_query"])
def test_heads_with_auxiliary_losses_train(small_shards: Path, tmp_path: Path, head: str) -> None:
    result, reports = run(small_shards, tmp_path, HEAD, head={"name": head}, steps=16, eval_every=4)
    assert reports[-1]["train_loss"] < reports[0]["train_loss"]
    assert 0 <= result["value"] <= 1
    assert read_bundle_spec(tmp_path / "best").head == head


def test_an_encoder_is_resized_to_a_larger_input(small_shards: Path, tmp_path: Path) -> None:
    first, _ = run(small_shards, tmp_path / "small", HEAD, steps=2)
    run(small_shards, tmp_path / "large", HEAD, steps=2, encoder=None, init=first["bundle"], img_px=64)
    model, spec = load_bundle(tmp_path / "large" / "best")
    assert (spec.img_px, spec.encoder and spec.encoder.img_px) == (64, 64)
    assert model(torch.rand(1, 1, 64, 64)).shape == (1, 2, 64, 64)
