"""The loaders without Ray: the limit, torch DataLoader, webdataset and MosaicML streaming.

Each stream is endless and reads its files in order, without a shuffle; batches are decoded in worker processes, one
per core, straight into the batch array, which is the fastest that each of the libraries was seen to do.
"""

import importlib.util
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from material import Material
from torch.utils.data import BatchSampler, DataLoader, Dataset

from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardIndex

__all__ = ["NEEDS", "PACKAGES", "STREAMS", "find_packages", "limit", "missing", "to_batch"]

PACKAGES = Path(__file__).resolve().parents[2] / "build" / "benchmark-packages"
NEEDS = {"webdataset": "webdataset", "mosaic": "streaming"}
"""Module that a contender needs."""
PREFETCH = 4  # batches per worker


def find_packages(folder: Path = PACKAGES) -> None:
    """Make the packages of requirements.txt importable; at the end, so that they replace nothing."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def missing(contender: str) -> str:
    """The module that a contender needs and that is not installed, or ""."""
    module = NEEDS.get(contender, "")
    return module if module and importlib.util.find_spec(module) is None else ""


def to_batch(encoded: list[Any], canvas_px: int) -> torch.Tensor:
    """Decode into one (B, S, S) uint8 batch."""
    batch = np.zeros((len(encoded), canvas_px, canvas_px), np.uint8)
    for canvas, data in zip(batch, encoded, strict=True):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    return torch.from_numpy(batch)


def limit(encoded: list[bytes], cores: int, seconds: float) -> float:
    """Images per second of a bare `cv2.imdecode` loop on every core together, bytes in memory."""
    context = multiprocessing.get_context("fork")  # the bytes are shared, not copied
    barrier, queue = context.Barrier(cores), context.Queue()
    arguments = [(encoded, rank * len(encoded) // cores, seconds, barrier, queue) for rank in range(cores)]
    processes = [context.Process(target=_decode_loop, args=values) for values in arguments]
    for process in processes:
        process.start()
    rates = [queue.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    return float(sum(rates))


def _decode_loop(encoded: list[bytes], first: int, seconds: float, barrier: Any, queue: Any) -> None:
    cv2.setNumThreads(1)
    arrays = [np.frombuffer(data, np.uint8) for data in encoded]
    endless = itertools.cycle(arrays[first:] + arrays[:first])
    barrier.wait()
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(16):
            cv2.imdecode(next(endless), cv2.IMREAD_GRAYSCALE)
        done += 16
    queue.put(done / took)


class _ArrowRows(Dataset[torch.Tensor]):
    """Rows of memory-mapped shards; a whole batch is fetched at once."""

    def __init__(self, shards: Path, canvas_px: int) -> None:
        self.reader, self.canvas_px = ShardReader(shards), canvas_px
        self.files = ShardIndex.load(shards).files
        self.rows = [(k, row) for k, file in enumerate(self.files) for row in range(file.rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, numbers: list[int]) -> torch.Tensor:
        """What DataLoader asks for where a dataset has it."""
        encoded: list[pa.Buffer] = []
        for number in numbers:
            shard, row = self.rows[number]
            encoded.append(self.reader.batch(self.files[shard].path).column("image")[row].as_buffer())
        return to_batch(encoded, self.canvas_px)


class _Endless(torch.utils.data.Sampler[int]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle(range(self.length))


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _as_it_is(batch: Any) -> Any:
    return batch


def torch_dataloader(material: Material, batch: int, cores: int) -> Iterator[torch.Tensor]:
    """torch DataLoader over the very shards, memory-mapped, with whole-batch fetches."""
    dataset = _ArrowRows(material.root / "one_tape", material.canvas_px)
    sampler = BatchSampler(_Endless(len(dataset)), batch, drop_last=True)
    return iter(
        DataLoader(dataset, batch_sampler=sampler, num_workers=cores, prefetch_factor=PREFETCH,
                   collate_fn=_as_it_is, worker_init_fn=_one_thread)
    )  # fmt: skip


def webdataset(material: Material, batch: int, cores: int) -> Iterator[torch.Tensor]:
    """Tars of the same bytes."""
    import webdataset as wds

    urls = sorted(map(str, (material.root / "tar").glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=False).repeat().to_tuple("image")
    dataset = dataset.batched(
        batch, collation_fn=lambda rows: to_batch([row[0] for row in rows], material.canvas_px)
    )
    return iter(
        wds.WebLoader(dataset, batch_size=None, num_workers=min(cores, len(urls)), prefetch_factor=PREFETCH,
                      worker_init_fn=_one_thread)
    )  # fmt: skip


def mosaic(material: Material, batch: int, cores: int) -> Iterator[torch.Tensor]:
    """MDS of the same bytes."""
    from streaming import Stream, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    passes = [Stream(local=str(folder)) for folder in sorted((material.root / "mds").iterdir())]
    dataset = StreamingDataset(streams=passes, shuffle=False, batch_size=batch)
    collate: Callable[[list[dict[str, bytes]]], torch.Tensor] = lambda rows: to_batch(  # noqa: E731
        [row["image"] for row in rows], material.canvas_px
    )
    loader = DataLoader(dataset, batch_size=batch, num_workers=cores, prefetch_factor=PREFETCH, drop_last=True,
                        collate_fn=collate, worker_init_fn=_one_thread, persistent_workers=True)  # fmt: skip
    while True:
        yield from loader


STREAMS: dict[str, Callable[[Material, int, int], Iterator[torch.Tensor]]] = {
    "torch": torch_dataloader,
    "webdataset": webdataset,
    "mosaic": mosaic,
}
