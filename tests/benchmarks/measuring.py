"""Timing a stream of batches and proving what it delivered."""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from material import Material, grids_of

__all__ = ["Delivered", "Window", "check", "measure", "numbers_of"]

Ints = npt.NDArray[np.int64]
TAIL = 256  # images after the timing whose every pixel is compared


@dataclass(frozen=True)
class Window:
    """How long a stream is timed.

    Attributes:
        seconds: length of the window.
        warm_s: between the first batch and the start of the window; queues fill, workers finish their imports.
        images: the window also ends after so many images; 0 = no such end.
    """

    seconds: float
    warm_s: float
    images: int = 0


@dataclass(frozen=True)
class Delivered:
    """What a stream delivered, and when."""

    first_batch_s: float
    images_per_s: float
    images: int  # inside the window
    grids: npt.NDArray[np.uint8]  # (n, 64) of all images, also before the window
    tail_crc: Ints  # (m,) of the last m images
    index: Ints  # (n,) the stream's own sample numbers, empty where it has none


def measure(
    open_stream: Callable[[], Iterator[torch.Tensor | dict[str, torch.Tensor]]], canvas_px: int, window: Window
) -> Delivered:
    """Start a stream, take batches until the window is over, then `TAIL` images more.

    Both edges of the window lie on the arrival of a batch, so a stream that delivers in bursts gains nothing:
    of two bursts at the edges it gets one.

    Args:
        open_stream: starts the stream; its start-up counts for the first batch. It must not end.
        canvas_px: S.
        window: what is timed.

    Raises:
        ValueError: a batch is not a uint8 tensor of (B, S, S) in this process.
    """
    began = time.perf_counter()
    stream = open_stream()
    grids, index, crcs = [], [], []
    first = opened = closed = 0.0
    inside = tail = 0
    for item in stream:
        now = time.perf_counter()
        batch = item if isinstance(item, torch.Tensor) else item["image"]
        if batch.dtype != torch.uint8 or tuple(batch.shape[1:]) != (canvas_px, canvas_px):
            raise ValueError(f"a batch is {batch.dtype} of {tuple(batch.shape)}, not uint8 (B, S, S)")
        pixels = batch.numpy()
        grids.append(grids_of(pixels))
        if not isinstance(item, torch.Tensor):
            index.append(item["index"].numpy().copy())
        first = first or now
        if not opened and now - first >= window.warm_s:
            opened = now  # this batch opens the window and is the first that counts
        if closed:
            crcs += [zlib.crc32(canvas) for canvas in pixels]
            tail += len(pixels)
            if tail >= TAIL:
                break
        elif opened and (now - opened >= window.seconds or (window.images and inside >= window.images)):
            closed = now  # this batch closes it and does not count
        elif opened:
            inside += len(pixels)
    getattr(stream, "close", lambda: None)()
    if not closed:
        raise ValueError("the stream ended before the window was over")
    return Delivered(
        first - began,
        inside / (closed - opened),
        inside,
        np.concatenate(grids),
        np.array(crcs, np.int64),
        np.concatenate(index) if index else np.empty(0, np.int64),
    )


def numbers_of(grids: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]) -> Ints:
    """Number of the first known image with each grid, (n,); -1 = no such image."""
    kind = f"V{known.shape[1]}"
    keys, first = np.unique(np.ascontiguousarray(known).view(kind).ravel(), return_index=True)
    wanted = np.ascontiguousarray(grids).view(kind).ravel()
    table = {key.tobytes(): int(number) for key, number in zip(keys, first, strict=True)}
    return np.array([table.get(value.tobytes(), -1) for value in wanted], np.int64)


def check(delivered: Delivered, material: Material, ids: list[str] | None = None) -> None:
    """Prove that a stream delivered the decoded images, all of them equally often, or exactly those planned.

    Args:
        delivered: by `measure`.
        material: what it was made from.
        ids: row ids of the samples that a plan promises, in order; None = passes over all images in any order.

    Raises:
        ValueError: unknown pixels, another order than planned, or some images far more often than others.
    """
    grids, crc = material.known()
    numbers = numbers_of(delivered.grids, grids)
    if (numbers < 0).any():
        raise ValueError(f"{(numbers < 0).sum()} of {len(numbers)} delivered images are none of the data set's")
    tail = numbers[-len(delivered.tail_crc) :]
    same_grid = numbers_of(grids, grids)  # images with equal grids share a number: any of their pixels will do
    allowed = {(int(n), int(c)) for n, c in zip(same_grid, crc, strict=True)}
    wrong = sum((int(n), int(c)) not in allowed for n, c in zip(tail, delivered.tail_crc, strict=True))
    if wrong:
        raise ValueError(f"pixels of {wrong} of {len(tail)} images differ from cv2's")
    if ids is not None:
        place = {row_id: number for number, row_id in enumerate(material.ids)}
        planned = same_grid[[place[row_id] for row_id in ids]]
        if not np.array_equal(planned, numbers):
            raise ValueError(f"{(planned != numbers).sum()} of {len(numbers)} images are not those planned")
        return
    expected = np.bincount(same_grid, minlength=len(grids)) * len(numbers) / len(grids)
    excess = np.bincount(numbers, minlength=len(grids)) - 2 * expected
    if excess.max() > 2:
        worst = material.ids[int(excess.argmax())]
        raise ValueError(f"{worst} was delivered far more often than the {expected[excess.argmax()]:.1f} of a pass")
