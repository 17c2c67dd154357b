"""Features of frozen encoders for all trials of a sweep, computed once with Ray Data: `SWEEP/features/<key>/`."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from usfm.data.shards import ShardIndex
from usfm.errors import UsfmError
from usfm.models.task_model import TaskModel
from usfm.train.context import PlainContext, best_device
from usfm.train.durable import LEFTOVER
from usfm.train.feature_cache import (
    CachePlan,
    cacheable,
    cached_sets,
    encoder_digest,
    fill,
    prepare,
    seal,
    task_key,
)
from usfm.train.finetune_config import SCRATCH, FinetuneConfig
from usfm.train.finetune_network import first_network
from usfm.train.finetune_views import ImageViews

__all__ = ["FOLDER", "cache_features", "common_features"]

FOLDER = "features"
ROWS = 64


@dataclass(frozen=True)
class _Job:
    """One cache: what it holds, and a run whose encoder and task it is for."""

    plan: CachePlan
    config: FinetuneConfig


def cache_features(
    configs: Mapping[str, FinetuneConfig], root: Path, workers: int, cpus: float, gpus: float
) -> dict[str, Path]:
    """Compute what is missing of the features that some runs learn from; Ray has to be there.

    Args:
        configs: name -> a run; those that are not `cacheable` are left out.
        root: folder of the caches.
        workers: Ray tasks at a time.
        cpus: CPUs of each.
        gpus: GPUs of each.

    Returns:
        Name -> the folder of its features.

    Raises:
        UsfmError: the features could not be computed.
    """
    jobs: dict[str, _Job] = {}
    keys: dict[str, str] = {}
    met: dict[str, _Job] = {}
    for name, config in configs.items():
        if not cacheable(config):
            continue
        alike = _alike(config)
        if alike not in met:
            met[alike] = _Job(_plan(config), config)
        job = met[alike]
        known = jobs.get(job.plan.key)
        blocks = tuple(sorted({*job.plan.blocks, *(known.plan.blocks if known else ())}))
        jobs[job.plan.key] = replace(job, plan=replace(job.plan, blocks=blocks))
        keys[name] = job.plan.key
    missing = {key: job for key, job in jobs.items() if not job.plan.is_there(root / key)}
    if missing:
        _compute(missing, root, workers, cpus, gpus)
    return {name: root / key for name, key in keys.items()}


def common_features(
    configs: Sequence[FinetuneConfig], root: Path, workers: int, cpus: float, gpus: float
) -> Path | None:
    """The folder of the features that all of some runs learn from, computed if missing; heads may differ.

    Args:
        configs: the runs, at least one.
        root: see `cache_features`, as of the others.
        workers: as there.
        cpus: as there.
        gpus: as there.

    Returns:
        None where a run is not `cacheable`, or has an encoder or task of its own; nothing is computed then.
    """
    named = {str(number): config for number, config in enumerate(configs)}
    if not all(cacheable(config) for config in configs) or len({_alike(c, head=False) for c in configs}) > 1:
        return None
    return cache_features(named, root, workers, cpus, gpus)["0"]


def _alike(config: FinetuneConfig, head: bool = True) -> str:
    """Equal for runs that have one encoder, one task and one head."""
    keys = {"init", "encoder", "img_px", "shards", *(["head"] if head else [])}
    named = config.model_dump_json(include=keys)
    return f"{named} {task_key(config.task)} {config.seed if config.init == SCRATCH else ''}"


def _plan(config: FinetuneConfig) -> CachePlan:
    network = _network(config)
    return CachePlan(
        encoder=encoder_digest(network.encoder),
        shards=ShardIndex.load(config.shards).fingerprint,
        task=task_key(config.task),
        blocks=tuple(network.head.blocks),
    )


def _network(config: FinetuneConfig) -> TaskModel:
    network = first_network(config)
    assert isinstance(network, TaskModel)  # `cacheable` has seen to it
    return network


def _compute(jobs: Mapping[str, _Job], root: Path, workers: int, cpus: float, gpus: float) -> None:
    import ray.data

    units: list[dict[str, Any]] = []
    for key, job in jobs.items():
        partial = _partial(root, key)
        shutil.rmtree(partial, ignore_errors=True)
        sets = cached_sets(job.config.shards, job.config.task)
        prepare(partial, _network(job.config), job.plan, _views(job.config, torch.device("cpu")), sets)
        for split, data in sets.items():
            units += [{"key": key, "split": split, "start": n, "stop": min(n + ROWS, len(data))}
                      for n in range(0, len(data), ROWS)]  # fmt: skip
    # tasks, not actors: a process is used again for the next unit, and remembers its network
    filled = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        _fill_unit,
        fn_kwargs={"jobs": dict(jobs), "root": str(root), "on_gpu": gpus > 0},
        batch_size=1,
        compute=ray.data.TaskPoolStrategy(size=workers),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    rows = sum(int(row["rows"]) for row in filled.iter_rows())
    if rows != sum(unit["stop"] - unit["start"] for unit in units):
        raise UsfmError(f"features of {rows} rows came back, of {len(units)} units; run the sweep again")
    for key, job in jobs.items():
        seal(_partial(root, key), root / key, job.plan)


def _fill_unit(batch: dict[str, Any], jobs: Mapping[str, _Job], root: str, on_gpu: bool) -> dict[str, Any]:
    """A Ray task: some rows of one split of a cache."""
    torch.set_num_threads(1)
    key, split = str(batch["key"][0]), str(batch["split"][0])
    job, device = jobs[key], best_device() if on_gpu else torch.device("cpu")
    network = _remembered(job.config.model_dump_json()).to(device)
    data = cached_sets(job.config.shards, job.config.task)[split]
    rows = np.arange(int(batch["start"][0]), int(batch["stop"][0]))
    fill(_partial(Path(root), key), network, job.plan, _views(job.config, device), data, split, rows, device)
    return {"rows": np.array([len(rows)])}


@lru_cache(maxsize=1)
def _remembered(config_json: str) -> TaskModel:
    return _network(FinetuneConfig.model_validate_json(config_json))


def _partial(root: Path, key: str) -> Path:
    return root / f".{key}{LEFTOVER}"


def _views(config: FinetuneConfig, device: torch.device) -> ImageViews:
    sets = cached_sets(config.shards, config.task)
    everything = np.arange(len(sets["train"]))
    return ImageViews(config, sets, everything, config.resolved_px(), PlainContext(device))
