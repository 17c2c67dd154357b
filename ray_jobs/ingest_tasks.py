"""Ray Data's side of ingest: chunks of items spread over the cluster, each to its fragment."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import cv2
from upath import UPath

from usfm.data.fragments import Chunk, fragment_path, process_chunk, row_settings
from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig
from usfm.errors import EnvironmentProblem

__all__ = ["missing", "process", "stream"]

LOOKUPS = 16


def missing(chunks: Sequence[Chunk], output: UPath) -> list[Chunk]:
    """Those without a fragment; an object store is asked for several at a time."""
    with ThreadPoolExecutor(LOOKUPS) as pool:
        there = pool.map(lambda chunk: fragment_path(output, chunk.key).exists(), chunks)
        return [chunk for chunk, finished in zip(chunks, there, strict=True) if not finished]


def stream(chunks: Sequence[Chunk], output: UPath, config: PrepareConfig) -> Iterator[int]:
    """Items of each finished chunk, as they finish."""
    if not chunks:
        return
    import ray.data  # after `connect` has set Ray's switches

    settings = {"output": str(output), "config": config, "settings": row_settings(config), "run": uuid4().hex}
    dataset = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks))
    # Ray Data starts a task again as often as its process dies; `process_chunk` refuses what kills it
    done = dataset.map_batches(process, batch_size=1, batch_format="numpy", fn_kwargs=settings)
    for row in done.iter_rows():
        yield int(row["items"])


def process(
    batch: Mapping[str, Any], output: str, config: PrepareConfig, settings: str, run: str
) -> dict[str, list[int]]:
    """Ray Data's side of `process_chunk`."""
    cv2.setNumThreads(1)  # one CPU per task; Ray runs the tasks side by side
    if row_settings(config) != settings:
        raise EnvironmentProblem(
            f"a machine of the cluster has another {GROUP_KEY_VARIABLE} (or another version of this code) than "
            "the driver; patients would get two names. Set it on every node before `ray start`"
        )
    counts = []
    for chunk in batch["chunk"]:
        process_chunk(chunk, output, config, run)
        counts.append(len(chunk.items))
    return {"items": counts}
