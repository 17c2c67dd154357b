"""Features of frozen encoders for the trials of a sweep, with Ray Data."""

import json
from pathlib import Path

import numpy as np
import pytest
from shard_factory import HEAD, VIEW

from ray_jobs import sweep
from ray_jobs.console import Console
from ray_jobs.features import cache_features, common_features
from usfm.train.context import PlainContext
from usfm.train.feature_cache import FeatureCache
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import read_config

VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}, "steps": 4, "batch_size": 8,
    "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}, "freeze_encoder": True, "views": "whole",
}  # fmt: skip


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_frozen_sweep_computes_features_once_and_scores_as_without(small_shards: Path, tmp_path: Path) -> None:
    inits = {
        "linear": {"fractions": [0.5]},
        "attentive": {"head": {"name": "attentive"}, "fractions": [1.0]},
        "tuned": {"freeze_encoder": False, "fractions": [1.0]},
    }
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "finetune": VALUES,
        "fractions": [0.5, 1.0], "seeds": [0, 1], "inits": inits, "tasks": [{**VIEW, "canvas_px": 64}],
        "max_concurrent": 1,  # every process more imports torch
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


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_optuna_search_of_heads_and_rates_learns_from_features(small_shards: Path, tmp_path: Path) -> None:
    space = {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "head.name": {"choice": ["linear", "attentive"]}}
    config = sweep.SweepConfig.build({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "finetune": VALUES, "fractions": [1.0],
        "seeds": [0], "inits": {"scratch": "scratch"}, "tasks": [{**VIEW, "canvas_px": 64}],
        "search": {"space": space, "samples": 2, "algorithm": "optuna"}, "max_concurrent": 1,
    })  # fmt: skip
    folder = sweep.run(config, Console())
    (cache,) = (folder / "features").iterdir()
    assert not cache.name.startswith(".")
    runs = list(folder.glob("trials/*"))
    assert len(runs) == 2
    for run_dir in runs:
        trial = FinetuneConfig.build(read_config(run_dir))
        found = json.loads((run_dir / "result.json").read_text())
        plain = finetune(trial.model_copy(update={"run_dir": str(tmp_path / run_dir.name)}), PlainContext())
        assert {k: found[k] for k in ("value", "val_value")} == pytest.approx(
            {k: plain[k] for k in ("value", "val_value")}, abs=1e-5
        )


@pytest.mark.parametrize(
    "change",
    [{"encoder": {**VALUES["encoder"], "drop_path": 0.5}}, {"img_px": 64}, {"views": "crops"}, {"seed": 1},
     {"freeze_encoder": False}],
)  # fmt: skip
def test_runs_that_see_different_features_share_none(small_shards: Path, tmp_path: Path, change: dict) -> None:
    one, other = (
        FinetuneConfig.build({**VALUES, "shards": str(small_shards), "task": {**VIEW, "canvas_px": 64}, **values})
        for values in ({}, change)
    )
    assert common_features([one, other], tmp_path, 1, 1, 0) is None
    assert not list(tmp_path.iterdir())
