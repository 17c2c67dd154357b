"""One contender, timed once in a process of its own: `one_run.py SPEC.json`, result in SPEC.result."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import contenders
import numpy as np
from material import Material, stream_config
from measuring import Window, check, measure
from memory import SIDE, MemoryWatch, synthetic_shards

from ray_jobs.cluster import ClusterConfig, connect
from usfm.data.stream import ImageStream

contenders.find_packages()
BALANCED_CHUNKS = 4  # of the plan, as the balanced limit's mix: each chunk has the exact shares


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Time one contender.

    Returns:
        images_per_s, first_batch_s and images (inside the window), and start_s of the trainer for ours.
    """
    name, batch, cores, workers = spec["contender"], spec["batch"], spec["cores"], spec["workers"]
    window = Window(spec["seconds"], spec["warm_s"])
    material = Material.load(Path(spec["material"]))
    if name.startswith("limit"):
        encoded = list(material.encoded())
        if name == "limit_balanced":
            encoded = [encoded[number] for number in _balanced(material, batch)]
        return {"images_per_s": contenders.limit(encoded, cores, spec["seconds"]), "images": len(encoded)}
    if name in contenders.STREAMS:
        opened = contenders.STREAMS[name]
        delivered = measure(lambda: opened(material, batch, cores), material.canvas_px, window)
        check(delivered, material)
        return _summary([delivered])
    plain = name.startswith("ray_")
    with cluster(cores):
        import ray_contenders as rays

        if plain:
            delivered = measure(lambda: rays.PLAIN[name](material, batch), material.canvas_px, window)
            check(delivered, material)
            return _summary([delivered])
        shards = {"ours": material.shards, "ours_sequential": material.root / "one_tape"}[name]
        config = stream_config(shards, material.canvas_px, batch, workers, material.images)
        outcome = rays.ours(config, workers, window)
    rays.check_ours(config, material, outcome["delivered"])
    return {**_summary(outcome["delivered"]), "start_s": outcome["start_s"]}


@contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """A fresh local cluster, as the jobs start theirs."""
    with connect(ClusterConfig(address="local", num_cpus=max(2, cpus))):
        from ray.data import DataContext

        DataContext.get_current().enable_progress_bars = False
        yield


def peak_memory(rows: int, folder: str, batch: int, cores: int, images: int) -> dict[str, Any]:
    """Stream so many images of a synthetic data set through a Ray Train worker and watch memory.

    Returns:
        peak_mb by part, and the number of images delivered.
    """
    shards = synthetic_shards(Path(folder) / f"synthetic-{rows}", rows)
    config = stream_config(shards, SIDE, batch, 1, rows)
    watch = MemoryWatch()
    with cluster(cores):
        import ray_contenders as rays

        outcome = rays.ours(config, 1, Window(3600, 0, images), lambda: watch)
    return {"peak_mb": watch.peak, "images": outcome["delivered"][0].images}


def _summary(delivered: list[Any]) -> dict[str, Any]:
    return {
        "images_per_s": sum(part.images_per_s for part in delivered),
        "first_batch_s": max(part.first_batch_s for part in delivered),
        "images": sum(part.images for part in delivered),
        "checked": sum(len(part.grids) for part in delivered),
    }


def _balanced(material: Material, batch: int) -> list[int]:
    config = stream_config(material.shards, material.canvas_px, batch, 1, material.images)
    place = {row_id: number for number, row_id in enumerate(material.ids)}
    samples = np.arange(BALANCED_CHUNKS * config.data.sampling.chunk_size)
    return [place[row_id] for row_id in ImageStream(config.data, config.seed).ids(samples)]


def main() -> None:
    """Run the spec and write its result."""
    path = Path(sys.argv[1])
    spec = json.loads(path.read_text(encoding="utf-8"))
    result = peak_memory(**spec) if "rows" in spec else run(spec)
    path.with_suffix(".result").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
