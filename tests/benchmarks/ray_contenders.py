"""The loaders on Ray: plain Ray Data, and ours through a Ray Train worker whose loop does nothing but take batches.

Import this once `ray_jobs.cluster.connect` is open: Ray reads its switches when it is imported.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ray
import torch
from material import Material
from measuring import Delivered, Window, check, measure
from ray.data.collate_fn import NumpyBatchCollateFn

from ray_jobs.pretrain import PretrainJobConfig
from usfm.data.stream import ImageStream
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["PLAIN", "check_ours", "ours"]


class _OnCanvas(NumpyBatchCollateFn):
    """Images of a batch on their canvases; images that already have its size are not copied again."""

    def __init__(self, canvas_px: int) -> None:
        self.canvas_px = canvas_px

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> torch.Tensor:
        images = batch["image"]
        if images.dtype == np.uint8 and images.shape[1:] == (self.canvas_px, self.canvas_px):
            return torch.from_numpy(images if images.flags.writeable else images.copy())
        canvases = np.zeros((len(images), self.canvas_px, self.canvas_px), np.uint8)
        for canvas, image in zip(canvases, images, strict=True):
            canvas[: image.shape[0], : image.shape[1]] = image
        return torch.from_numpy(canvases)


def ray_images(material: Material, batch: int) -> Iterator[torch.Tensor]:
    """`read_images` of single files."""
    dataset = ray.data.read_images(str(material.root / "files"), mode="L")
    while True:
        yield from _torch_batches(dataset, material, batch)


def ray_parquet(material: Material, batch: int) -> Iterator[torch.Tensor]:
    """`read_parquet`, then a decoding `map`."""

    def decode(row: dict[str, Any]) -> dict[str, Any]:  # in here: it travels without this module and its imports
        cv2.setNumThreads(1)
        return {"image": cv2.imdecode(np.frombuffer(row["image"], np.uint8), cv2.IMREAD_GRAYSCALE)}

    dataset = ray.data.read_parquet(str(material.root / "parquet")).map(decode)
    while True:
        yield from _torch_batches(dataset, material, batch)


def _torch_batches(dataset: ray.data.Dataset, material: Material, batch: int) -> Iterator[torch.Tensor]:
    collate = _OnCanvas(material.canvas_px)
    yield from dataset.iter_torch_batches(batch_size=batch, collate_fn=collate, drop_last=True)


PLAIN = {"ray_images": ray_images, "ray_parquet": ray_parquet}


def ours(
    config: PretrainConfig, workers: int, window: Window, fitted: Any = contextlib.nullcontext
) -> dict[str, Any]:
    """Time `ray_jobs.feed` in the train workers, with the resources that a pre-training job takes by default.

    Args:
        config: the run.
        workers: train workers.
        window: what is timed.
        fitted: makes a context for the time in which the trainer runs (a memory watch).

    Returns:
        `delivered` by rank, and `start_s` until the first worker's loop began (its imports included).
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cpus = PretrainJobConfig.model_fields["cpus_per_worker"].default
    with tempfile.TemporaryDirectory(prefix="usfm-benchmark-") as folder:
        trainer = TorchTrainer(
            _take_batches,
            train_loop_config={"config": config.model_dump(mode="json"), "window": vars(window), "folder": folder},
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": cpus}),
            torch_config=TorchConfig(backend="gloo"),
            run_config=RunConfig(name="loader", storage_path=folder),
        )
        began = time.time()
        with fitted():
            trainer.fit()
        ranks = [np.load(Path(folder) / f"rank-{rank}.npz") for rank in range(workers)]
        delivered = [_restored(rank) for rank in ranks]
        return {"delivered": delivered, "start_s": min(float(rank["began"]) for rank in ranks) - began}


def _take_batches(values: dict[str, Any]) -> None:
    """On the train worker: the start of `usfm.train.pretrain.pretrain`, and a loop that only takes batches."""
    from ray_jobs.feed import worker_feed
    from ray_jobs.train_context import RayContext
    from usfm.train.pretrain_plan import PretrainPlan

    config = PretrainConfig.build(values["config"])
    context = RayContext()
    began = time.time()

    def open_stream() -> Iterator[dict[str, torch.Tensor]]:
        stream = ImageStream(config.data, config.seed)
        plan = PretrainPlan.derive(config, stream, context.world_size)
        threads = context.decode_threads
        return worker_feed(config, stream, plan, context.rank, context.world_size, threads)(0)

    delivered = measure(open_stream, config.data.canvas_px, Window(**values["window"]))
    np.savez(Path(values["folder"]) / f"rank-{context.rank}.npz", began=began, **vars(delivered))


def _restored(arrays: Any) -> Delivered:
    values = {name: arrays[name] for name in Delivered.__annotations__}
    return Delivered(**{name: value if value.ndim else value.item() for name, value in values.items()})


def check_ours(config: PretrainConfig, material: Material, delivered: list[Delivered]) -> None:
    """Every rank delivered exactly its samples of the plan, in order."""
    stream = ImageStream(config.data, config.seed)
    size, lanes = config.batch.micro_size, config.batch.global_size // config.batch.micro_size
    for rank, part in enumerate(delivered):
        step = np.arange(len(part.index)) // size
        own = (step * lanes + rank) * size + np.arange(len(part.index)) % size
        if not np.array_equal(part.index, own):
            raise ValueError(f"rank {rank} delivered other sample numbers than its own")
        check(part, material, stream.ids(part.index))
