"""What has to hold on a GPU: a run that was stopped goes on to the same bits, and scores are those of the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shard_factory import HEAD, VIEW
from test_finetune_kinds import GREY, SEVERAL
from test_finetune_kinds import shards as kinds_of_hearts
from test_finetune_precision import TASKS
from test_golden_losses import thirty_steps
from test_pretrain import config_of, run, weights

from usfm.data.degrade import DegradeConfig, degrade
from usfm.data.tasks import load_task
from usfm.metrics.evaluation import evaluate
from usfm.models.bundle import load_bundle
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig

pytestmark = pytest.mark.gpu
GPU, CPU = torch.device("cuda"), torch.device("cpu")
shards = kinds_of_hearts
HALF = {"restored": TASKS["restored"], "size": TASKS["size"], "head": HEAD, "view": VIEW}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["pixel", "teacher"])
def test_a_stopped_pretraining_goes_on_to_the_same_bits(
    small_shards: Path, tmp_path: Path, kind: str, precision: str
) -> None:
    encoder = {"size": "tiny", "img_px": 32, "patch_px": 8, "drop_path": 0.2}
    values = {
        "objective": {"kind": kind, "spatial_mask": {"unit_px": 8}},
        "precision": precision,
        "encoder": encoder,
    }
    whole = run(config_of(small_shards, tmp_path / "whole", **values), device="cuda")
    stopped = config_of(small_shards, tmp_path / "stopped", **values)
    assert run(stopped, stop_after=4, device="cuda") == whole[:4]
    assert run(stopped, device="cuda") == whole
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_thirty_steps_have_the_losses_of_the_cpu(small_shards: Path, tmp_path: Path) -> None:
    first, second = (thirty_steps(small_shards, tmp_path / device, device) for device in ("cpu", "cuda"))
    for name, relative in {"loss": 1e-2, "spatial": 1e-2, "frequency": 3e-2, "lr": 1e-12}.items():
        got, wanted = (np.array([row[name] for row in which]) for which in (second, first))
        assert got == pytest.approx(wanted, rel=relative), name


@pytest.mark.slow
def test_the_compiled_encoder_has_the_same_losses(small_shards: Path, tmp_path: Path) -> None:
    values = {"encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}}
    plain = run(config_of(small_shards, tmp_path / "plain", **values), device="cuda")
    compiled = config_of(small_shards, tmp_path / "compiled", speed={"compile": True}, **values)
    for one, other in zip(run(compiled, device="cuda"), plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-2)  # bf16, in another order


def finetuned(shards: Path, folder: Path, task: dict, **values) -> FinetuneConfig:
    config = FinetuneConfig.build({
        "shards": str(shards), "run_dir": str(folder), "task": {**task, "canvas_px": 64}, "precision": "bf16",
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.1}, "steps": 40, "batch_size": 8,
        "eval_every": 20, "optim": {"lr": 2e-3, "base_batch": 8}, **values,
    })  # fmt: skip
    finetune(config, PlainContext(GPU))
    return config


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, {}) for name in HALF),
        ("head", {"head": {"name": "upernet"}}),
        ("head", {"head": {"name": "mask_query"}}),
        ("head", {"network": "unet", "img_px": 32, "encoder": None}),
        ("view", {"network": "resnet18", "img_px": 32, "encoder": None}),
        ("view", {"head": {"name": "attentive"}, "degrade_views": {"chance": 1.0}, "layer_decay": 0.65}),
    ],
)
def test_what_was_trained_on_a_gpu_scores_the_same_on_a_cpu(
    small_shards: Path, tmp_path: Path, name: str, values: dict
) -> None:
    config = finetuned(small_shards, tmp_path, HALF[name], **values)
    test = load_task(str(small_shards), config.task)["test"]
    scores = []
    for device in (CPU, GPU):
        model, spec = load_bundle(tmp_path / "best", device)
        scores.append(evaluate(model, test, config.task, spec.img_px, device).scores)
    for score, one in scores[0].items():
        assert scores[1][score].value == pytest.approx(one.value, rel=2e-3, abs=2e-3, nan_ok=True), score


@pytest.mark.parametrize("task", [SEVERAL, GREY], ids=["multilabel", "regression"])
def test_other_kinds_learn_there(shards: Path, tmp_path: Path, task: dict) -> None:
    config = finetuned(shards, tmp_path, task, steps=80)
    model, spec = load_bundle(tmp_path / "best", GPU)
    found = evaluate(model, load_task(str(shards), config.task)["test"], config.task, spec.img_px, GPU)
    assert found.value < 25 if task is GREY else found.value > 0.8


def test_images_are_made_worse_alike_on_both(small_shards: Path) -> None:
    images, index = torch.rand(6, 1, 48, 64, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    worse = [degrade(images.to(device), index, DegradeConfig(chance=1.0), 3).cpu() for device in (CPU, GPU)]
    assert (worse[0] - images).abs().mean() > 0.01
    torch.testing.assert_close(worse[1], worse[0], rtol=1e-3, atol=1e-3)
