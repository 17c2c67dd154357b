"""Fine-tuning in bf16 autocast."""

from pathlib import Path

import pytest
import torch
from shard_factory import HEAD, VIEW

from usfm.models.bundle import load_bundle
from usfm.train import finetune as loop
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_views import ImageViews
from usfm.train.journal import read_journal

TASKS = {
    "head": HEAD,
    "view": VIEW,
    "size": {"name": "size", "kind": "regression", "organs": ["fetal_head"], "target": "mask_perimeter",
             "unit": "px", "scales_with_size": True},
    "restored": {"name": "restored", "kind": "enhancement", "organs": ["heart"], "degrade": {"chance": 1}},
}  # fmt: skip


def config_of(shards: Path, run_dir: Path, task: str, **values) -> FinetuneConfig:
    return FinetuneConfig.build({
        "shards": str(shards), "run_dir": str(run_dir), "task": {**TASKS[task], "canvas_px": 64}, "steps": 4,
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.1}, "batch_size": 8,
        "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}, "precision": "bf16", **values,
    })  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_the_forward_pass_alone_is_bf16(
    small_shards: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, scored, lost = [], [], []
    answer, score, measure = ImageViews.answer, ImageViews.score, loop.TaskLoss.__call__

    def watched_answer(self, model, batch):
        said = answer(self, model, batch)
        answered.append(torch.is_autocast_enabled("cpu"))
        return said

    def watched_score(self, model, split, full):
        scored.append((torch.is_autocast_enabled("cpu"), {p.dtype for p in model.parameters()}))
        return score(self, model, split, full)

    def watched_loss(self, said, target):
        loss = measure(self, said, target)
        lost.append((said.dtype, loss.dtype, bool(torch.isfinite(loss))))
        return loss

    monkeypatch.setattr(ImageViews, "answer", watched_answer)
    monkeypatch.setattr(ImageViews, "score", watched_score)
    monkeypatch.setattr(loop.TaskLoss, "__call__", watched_loss)
    finetune(config_of(small_shards, tmp_path / "half", task), PlainContext(torch.device("cpu")))
    assert answered == [True] * 4
    assert scored == [(False, {torch.float32})] * 3  # two on the validation set, one on the test set
    assert lost == [(torch.float32, torch.float32, True)] * 4
    finetune(config_of(small_shards, tmp_path / "full", task, precision="fp32"), PlainContext(torch.device("cpu")))
    half, full = ([row["train_loss"] for row in read_journal(tmp_path / name)] for name in ("half", "full"))
    assert half == pytest.approx(full, rel=0.1)
    assert half != full


class _Killed(Exception):
    pass


def test_a_killed_run_in_bf16_ends_with_the_same_weights(small_shards: Path, tmp_path: Path) -> None:
    straight, cut = (config_of(small_shards, tmp_path / name, "view", steps=6) for name in ("straight", "cut"))
    whole = finetune(straight, PlainContext(torch.device("cpu")))

    def kill(row, *_) -> None:
        if row["step"] == 4:
            raise _Killed

    context = PlainContext(torch.device("cpu"))
    context.report = kill
    with pytest.raises(_Killed):
        finetune(cut, context)
    again = finetune(cut, PlainContext(torch.device("cpu")))
    kept = ("value", "val_value")
    assert {k: again[k] for k in kept} == {k: whole[k] for k in kept}
    one, other = (load_bundle(tmp_path / name / "best") for name in ("straight", "cut"))
    assert one[1] == other[1]  # its version is the hash of the weights
