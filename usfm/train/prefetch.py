"""Micro-batches on the device: on CUDA one ahead, from pinned memory, on a stream of its own; else as they come."""

import time
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["MicroBatch", "Prefetch", "as_micro_batch"]

MicroBatch = dict[str, torch.Tensor]


def as_micro_batch(arrays: Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.uint8]]) -> MicroBatch:
    """Arrays of the stream as tensors that share their memory."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Prefetch:
    """Takes micro-batches from the feed and moves them to the device.

    Attributes:
        waited_s: seconds that this process has waited for the feed. On CUDA the device may have been at work
            meanwhile, so this is the most that the feed can have cost.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.waited_s = device, 0.0
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ahead: tuple[MicroBatch, MicroBatch] | None = None

    def take(self, batches: Iterator[MicroBatch]) -> tuple[MicroBatch, MicroBatch]:
        """The next micro-batch as the feed gave it, and on the device."""
        if self._ahead is None:
            began = time.perf_counter()
            host = next(batches)
            self.waited_s += time.perf_counter() - began
            self._ahead = host, self._move(host)
        (host, moved), self._ahead = self._ahead, None
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            for tensor in moved.values():
                tensor.record_stream(current)  # its memory is not given away while the step uses it
        return host, moved

    def look_ahead(self, batches: Iterator[MicroBatch]) -> None:
        """Start moving the batch after this one; call it once the device has its work. Nothing on a CPU."""
        if self._stream is None:
            return
        began = time.perf_counter()
        following = next(batches, None)
        self.waited_s += time.perf_counter() - began
        self._ahead = None if following is None else (following, self._move(following))

    def _move(self, batch: MicroBatch) -> MicroBatch:
        if self._stream is None:
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        with torch.cuda.stream(self._stream):
            return {name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()}
