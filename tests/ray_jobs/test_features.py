"""Features of frozen encoders for the trials of a sweep, with Ray Data."""

import json
from pathlib import Path

import numpy as np
import pytest
from shard_factory import HEAD, VIEW

from ray_jobs import sweep
from ray_jobs.console import Console
from ray_jobs.features import cache_features
from usfm.train.context import PlainContext
from usfm.train.feature_cache import FeatureCache
from usfm.train.finetune import finetune

VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}, "steps": 4, "batch_size": 8,
    "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}, "freeze_encoder": True, "views": "whole",
}  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_frozen_sweep_computes_features_once_and_scores_as_without(small_shards: Path, tmp_path: Path) -> None:
    inits = {"linear": "scratch", "attentive": {"head": {"name": "attentive"}}, "tuned": {"freeze_encoder": False}}
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "finetune": VALUES,
        "fractions": [0.5, 1.0], "seeds": [0, 1], "inits": inits, "tasks": [{**VIEW, "canvas_px": 64}],
    })  # fmt: skip
    folder = sweep.run(config, Console())
    # one folder per first encoder (a seed each); both heads share it, and what is not frozen needs none
    caches = sorted((folder / "features").iterdir())
    assert [path.name.startswith(".") for path in caches] == [False, False]
    planned = sweep.trials(config)
    for name in ("view-linear-0.5-0", "view-attentive-1-1"):
        trial = planned[name].config
        found = json.loads((Path(trial.run_dir) / "result.json").read_text())
        plain = finetune(trial.model_copy(update={"run_dir": str(tmp_path / name)}), PlainContext())
        assert found["value"] == pytest.approx(plain["value"], abs=1e-5)
        assert found["val_value"] == pytest.approx(plain["val_value"], abs=1e-5)
    # a head that takes more: what is there is not enough
    written = {path: path.stat().st_mtime_ns for path in folder.glob("features/*/index.json")}
    frozen = {n: t.config for n, t in planned.items() if t.init != "tuned"}
    again = cache_features(frozen, folder / "features", 1, 1, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("features/*/index.json")} == written
    assert set(again) == set(frozen)
    assert len(set(again.values())) == 2
    head = {**HEAD, "canvas_px": 64}
    masks = sweep.trials(
        config.model_copy(update={"tasks": [type(config.tasks[0]).build(head)], "inits": {"a": "scratch"}})
    )
    (mask_cache,) = set(cache_features({"a": masks["head-a-1-0"].config}, folder / "features", 2, 1, 0).values())
    taken, normed = FeatureCache(mask_cache).features("train", np.arange(3), [2, 3, 4])
    assert [tuple(tokens.shape) for tokens in (*taken, normed)] == [(3, 17, 96)] * 4
