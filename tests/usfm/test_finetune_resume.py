"""A killed fine-tuning goes on from its last score and ends with the same numbers; layer decay is applied."""

import json
from pathlib import Path

import pytest
import torch
from shard_factory import HEAD, VIEW

from ray_jobs import finetune as finetune_job
from ray_jobs.console import Console
from ray_jobs.finetune import FinetuneJobConfig
from usfm.errors import NonFiniteLoss
from usfm.models.bundle import load_bundle
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_loss import TaskLoss
from usfm.train.finetune_state import finished
from usfm.train.journal import read_journal

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2}


class Killed(Exception):
    pass


class Mortal(PlainContext):
    """A worker that dies at its n-th report, when journal and state of that step are on the disk."""

    def __init__(self, last: int) -> None:
        super().__init__(torch.device("cpu"))
        self.last = last

    def report(self, metrics) -> None:
        super().report(metrics)
        if len(self.reports) == self.last:
            raise Killed


def config_of(shards: Path, run_dir: Path, task: dict, **values) -> FinetuneConfig:
    base = {"shards": str(shards), "run_dir": str(run_dir), "task": {**task, "canvas_px": 64}, "encoder": ENCODER,
            "steps": 9, "batch_size": 4, "eval_every": 2, "optim": {"lr": 2e-3, "base_batch": 4}}  # fmt: skip
    return FinetuneConfig.build(base | values)


def outcome(folder: Path) -> tuple[list[dict], dict, dict[str, torch.Tensor]]:
    result = json.loads((folder / "result.json").read_text())
    weights = load_bundle(folder / "best")[0].state_dict()
    return list(read_journal(folder)), {k: result[k] for k in ("value", "val_value", "inputs")}, weights


@pytest.mark.parametrize("task", [VIEW, HEAD], ids=lambda task: task["kind"])
def test_a_killed_run_goes_on_and_ends_bit_equal(small_shards: Path, tmp_path: Path, task: dict) -> None:
    straight, broken = (config_of(small_shards, tmp_path / name, task) for name in ("straight", "broken"))
    whole = PlainContext(torch.device("cpu"))
    finetune(straight, whole)
    steps = []
    for last in (1, 2):
        context = Mortal(last)
        with pytest.raises(Killed):
            finetune(broken, context)
        steps += [row["step"] for row in context.reports]
        assert (tmp_path / "broken" / "state" / "middle.pt").exists()
    context = PlainContext(torch.device("cpu"))
    finetune(broken, context)
    assert steps + [row["step"] for row in context.reports] == [2, 4, 6, 8, 9]
    one, other = outcome(tmp_path / "straight"), outcome(tmp_path / "broken")
    assert one[:2] == other[:2]
    assert all(torch.equal(one[2][name], other[2][name]) for name in one[2])
    assert not (tmp_path / "broken" / "state").exists()


def test_the_middle_of_another_run_is_not_gone_on_with(
    small_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Killed):
        finetune(config_of(small_shards, tmp_path, VIEW), Mortal(2))
    context = PlainContext(torch.device("cpu"))
    finetune(config_of(small_shards, tmp_path, VIEW, seed=1), context)
    assert [row["step"] for row in context.reports] == [2, 4, 6, 8, 9]
    assert "is of another run" in caplog.text


def test_a_step_that_would_make_every_weight_nan_is_not_taken(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TaskLoss, "__call__", lambda _, answer, target: (0 * answer.sum()).sqrt())  # 0, slope NaN
    with pytest.raises(NonFiniteLoss, match=r"step 0: gradient norm nan; the step was not taken. Rows: \['made"):
        finetune(config_of(small_shards, tmp_path, VIEW), PlainContext(torch.device("cpu")))


def test_a_run_at_its_end_is_shown_not_made_again(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FinetuneJobConfig.build(config_of(small_shards, tmp_path, VIEW, steps=2).model_dump())
    monkeypatch.setattr(
        finetune_job, "_train", lambda job, science, console: finetune(science, PlainContext(torch.device("cpu")))
    )
    finetune_job.run(config, Console())
    monkeypatch.delattr(finetune_job, "_train")
    assert finetune_job.run(config, Console()) == tmp_path / "best"
    result = json.loads((tmp_path / "result.json").read_text())
    assert finished(tmp_path, result["inputs"]) == result
    assert finished(tmp_path, result["inputs"] | {"shards": "others"}) is None
    assert finished(tmp_path / "none", {}) is None


def test_layer_decay_moves_early_blocks_less(small_shards: Path, tmp_path: Path) -> None:
    """Adam's first step is the rate in every coordinate that has a gradient: changes show the rates."""
    torch.manual_seed(0)
    moved = {}
    for name, steps in (("before", 1), ("after", 1)):
        rate = 1e-12 if name == "before" else 1e-3
        optim = {"lr": rate, "base_batch": 4, "warmup": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}
        encoder = {**ENCODER, "drop_path": 0.0}
        config = config_of(
            small_shards, tmp_path / name, VIEW, steps=steps, optim=optim, layer_decay=0.5, encoder=encoder
        )
        finetune(config, PlainContext(torch.device("cpu")))
        moved[name] = load_bundle(tmp_path / name / "best")[0].state_dict()
    depth = 1 + max(int(name.split(".")[3]) for name in moved["after"] if ".blocks." in name)

    def change(name: str) -> float:
        return float((moved["after"][name] - moved["before"][name]).abs().median())

    assert change("head.linear.weight") == pytest.approx(1e-3, rel=0.02)
    for block in range(depth):
        expected = 1e-3 * 0.5 ** (depth - block)
        assert change(f"encoder.beit.blocks.{block}.mlp.fc2.weight") == pytest.approx(expected, rel=0.02)
    assert change("encoder.beit.patch_embed.proj.weight") == pytest.approx(1e-3 * 0.5 ** (depth + 1), rel=0.02)
