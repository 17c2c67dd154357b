"""Peak memory of driver and train worker by rows of the data set: the plan is lazy, so it must not grow.

What is counted is resident memory less what is shared (`rss - shared` of psutil: anonymous pages alone). Pages of
mapped shards and of Ray's object store belong to the machine and are bounded by it; counting them in every process
that maps them would count them twice.
"""

import contextlib
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow as pa

from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import ShardFile, write_index, write_shard

__all__ = ["SIDE", "MemoryWatch", "synthetic_shards"]

PERIOD_S = 0.2
SIDE = 64
ORGAN_SHARES = {"abdomen": 0.7, "heart": 0.2, "lung": 0.1}
ROWS_PER_SHARD = 100
TRAIN_WORKER = "RayTrainWorker"
LINKS_PER_FILE = 30_000  # file systems bound the number of hard links


class MemoryWatch:
    """Peaks of this process, of its Ray train workers, of both together, and of everything else below it, in MB."""

    def __init__(self) -> None:
        self.peak: dict[str, float] = {}
        self._stop = threading.Event()

    def __enter__(self) -> "MemoryWatch":
        self._thread = threading.Thread(target=self._watch, name="memory watch")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(PERIOD_S):
            now = {"driver": _anonymous_mb(me), "train worker": 0.0, "ray": 0.0}
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    train = TRAIN_WORKER in " ".join(child.cmdline())
                    now["train worker" if train else "ray"] += _anonymous_mb(child)
            now["driver + train worker"] = now["driver"] + now["train worker"]
            self.peak = {part: max(value, self.peak.get(part, 0.0)) for part, value in now.items()}


def _anonymous_mb(process: psutil.Process) -> float:
    memory = process.memory_info()
    return float(memory.rss - memory.shared) / 2**20


def synthetic_shards(root: Path, rows: int) -> Path:
    """Shards with so many rows by the index; every shard is a hard link to one of few files of tiny images."""
    count = max(len(ORGAN_SHARES), rows // ROWS_PER_SHARD)
    pixels = np.random.default_rng(0).integers(0, 255, (ROWS_PER_SHARD, SIDE, SIDE)).astype(np.uint8)
    images = [cv2.imencode(".png", image // 32 * 32)[1].tobytes() for image in pixels]
    table = pa.Table.from_pylist(
        [{"id": f"synthetic/{n}#0", "organ": "any", "image": image, "height": SIDE, "width": SIDE}
         for n, image in enumerate(images)], ROW_SCHEMA,
    )  # fmt: skip
    files: list[ShardFile] = []
    first: ShardFile | None = None
    for organ, share in ORGAN_SHARES.items():
        for number in range(max(1, round(count * share))):
            name = f"train/{organ}/{number:06d}.arrow"
            if len(files) % LINKS_PER_FILE == 0:
                first = write_shard(root, name, "train", organ, table)
            else:
                assert first is not None
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(root / first.path, root / name)
            assert first is not None
            files.append(ShardFile(name, "train", organ, ROWS_PER_SHARD, first.bytes, first.sha256))
    write_index(root, f"synthetic-{rows}", files)
    return root
