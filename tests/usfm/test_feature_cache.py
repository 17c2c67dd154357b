"""Heads that learn from cached features of a frozen encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shard_factory import HEAD, VIEW

from usfm.data.shards import ShardIndex
from usfm.data.tasks import load_task
from usfm.errors import DataError
from usfm.train.cached_views import CachedViews
from usfm.train.context import PlainContext
from usfm.train.feature_cache import (
    CachePlan,
    FeatureCache,
    cacheable,
    cached_sets,
    encoder_digest,
    fill,
    prepare,
    seal,
    task_key,
)
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_network import first_network
from usfm.train.finetune_views import ImageViews
from usfm.train.journal import read_journal

CPU = torch.device("cpu")
VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2}, "steps": 4, "batch_size": 8,
    "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8}, "freeze_encoder": True, "views": "whole",
}  # fmt: skip


def config_of(shards: Path, run_dir: Path, task: dict, **values) -> FinetuneConfig:
    base = {**VALUES, "shards": str(shards), "run_dir": str(run_dir), "task": {**task, "canvas_px": 64}}
    return FinetuneConfig.build(base | values)


def cached(config: FinetuneConfig, folder: Path) -> CachePlan:
    """Write a whole cache in this process."""
    network, sets = first_network(config), load_task(config.shards, config.task)
    plan = CachePlan(encoder_digest(network.encoder), ShardIndex.load(config.shards).fingerprint,
                     config.task.model_dump_json(), tuple(network.head.blocks))  # fmt: skip
    views = ImageViews(config, sets, np.arange(len(sets["train"])), 32, PlainContext(CPU))
    partial = folder.with_name("partial")
    prepare(partial, network, plan, views, sets)
    for split, data in sets.items():
        for rows in np.array_split(np.arange(len(data)), 3):
            fill(partial, network, plan, views, data, split, rows, CPU)
    seal(partial, folder, plan)
    return plan


@pytest.mark.parametrize(("task", "head"), [(HEAD, None), (VIEW, None), (VIEW, "attentive")])
def test_a_head_learns_the_same_from_the_cache(
    small_shards: Path, tmp_path: Path, task: dict, head: str | None
) -> None:
    values = {"head": {"name": head}, "fraction": 0.5}
    plain = config_of(small_shards, tmp_path / "plain", task, **values)
    expected = finetune(plain, PlainContext(CPU))
    cached(plain, tmp_path / "cache")
    config = config_of(small_shards, tmp_path / "cached", task, **values)
    context = PlainContext(CPU)
    result = finetune(config, context, CachedViews(config, context, tmp_path / "cache"))
    for key in ("value", "val_value"):
        assert result[key] == pytest.approx(expected[key], abs=1e-5)
    one, two = ([row["train_loss"] for row in read_journal(tmp_path / name)] for name in ("plain", "cached"))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-4)


def test_a_cache_is_used_for_its_own_encoder_and_whole_alone(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path / "run", VIEW)
    folder = tmp_path / "cache"
    plan = cached(config, folder)
    assert plan.is_there(folder)
    assert not CachePlan("another", plan.shards, plan.task, plan.blocks).is_there(folder)
    assert not CachePlan(plan.encoder, plan.shards, plan.task, (2,)).is_there(folder)
    cache = FeatureCache(folder)
    cache.require(first_network(config))
    other = config_of(small_shards, tmp_path / "run", VIEW, seed=1)
    with pytest.raises(DataError, match="the features of another encoder"):
        cache.require(first_network(other))
    network = first_network(config)
    network.head.blocks = [2]
    with pytest.raises(DataError, match=r"lacks the tokens of blocks \[2\]"):
        cache.require(network)
    file = folder / "val-normed.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert not plan.is_there(folder)
    file.unlink()
    assert not plan.is_there(folder)
    (folder / "index.json").unlink()
    with pytest.raises(DataError, match=r"index.json is missing"):
        FeatureCache(folder)


def test_what_changes_from_step_to_step_is_not_cached(small_shards: Path, tmp_path: Path) -> None:
    assert cacheable(config_of(small_shards, tmp_path, HEAD))
    assert not cacheable(config_of(small_shards, tmp_path, HEAD, views="crops"))
    assert not cacheable(config_of(small_shards, tmp_path, HEAD, freeze_encoder=False))
    assert not cacheable(config_of(small_shards, tmp_path, HEAD, degrade_views={}))
    assert not cacheable(config_of(small_shards, tmp_path, HEAD, inference={"mode": "sliding"}))
    assert not cacheable(config_of(small_shards, tmp_path, HEAD, network="unet", freeze_encoder=False))


def test_all_folds_of_a_task_learn_from_one_cache(small_shards: Path, tmp_path: Path) -> None:
    for fold in (0, 3):
        task = {**VIEW, "split_by": "folds", "fold": fold}
        config = config_of(small_shards, tmp_path / f"plain{fold}", task)
        expected = finetune(config, PlainContext(CPU))
        if fold == 0:
            network, sets = first_network(config), cached_sets(config.shards, config.task)
            plan = CachePlan(encoder_digest(network.encoder), "made", task_key(config.task), ())
            views = ImageViews(config, sets, np.arange(len(sets["train"])), 32, PlainContext(CPU))
            prepare(tmp_path / "partial", network, plan, views, sets)
            every = np.arange(len(sets["train"]))
            fill(tmp_path / "partial", network, plan, views, sets["train"], "train", every, CPU)
            seal(tmp_path / "partial", tmp_path / "cache", plan)
        assert task_key(config.task) == plan.task
        cached_run = config_of(small_shards, tmp_path / f"cached{fold}", task)
        context = PlainContext(CPU)
        result = finetune(cached_run, context, CachedViews(cached_run, context, tmp_path / "cache"))
        for key in ("value", "val_value"):
            assert result[key] == pytest.approx(expected[key], abs=1e-5)
