"""Preparations that may fail on one worker alone: all workers learn of it, none waits for the one that failed."""

from collections.abc import Callable
from typing import TypeVar

import torch

from usfm.errors import CheckpointError, ConfigError, RunTakenOver, UsfmError
from usfm.train.context import WorkerContext

__all__ = ["together"]

T = TypeVar("T")
FINAL = {kind.__name__: kind for kind in (CheckpointError, ConfigError, RunTakenOver)}
MESSAGE_BYTES = 600


def together(context: WorkerContext, work: Callable[[], T]) -> T:
    """Do something on every worker; if it fails on one, it fails on all.

    Every worker calls it at the same place. Without it the others would wait for the failed one in their next
    collective until its time-out, half an hour by default.

    Raises:
        UsfmError: this worker's own error, or that of the first worker that failed, with its number.
    """
    failure: UsfmError | None = None
    try:
        made = work()
    except UsfmError as error:
        failure = error
    if context.world_size > 1:
        _learn(context, failure)
    if failure is not None:
        raise failure
    return made


def _learn(context: WorkerContext, own: UsfmError | None) -> None:
    """Tell the others of an error of this worker, or raise the first other worker's."""
    failed = torch.zeros(context.world_size, device=context.device)
    failed[context.rank] = own is not None
    failed = context.sum(failed)
    if not failed.any():
        return
    first = int(failed.argmax())
    letters = torch.zeros(MESSAGE_BYTES, device=context.device)
    if context.rank == first:
        said = f"{type(own).__name__}\n{own}".encode()[:MESSAGE_BYTES]
        letters[: len(said)] = torch.tensor(list(said), dtype=letters.dtype)
    text = bytes(int(code) for code in context.sum(letters).tolist()).rstrip(b"\0").decode(errors="replace")
    kind, _, message = text.partition("\n")
    if own is None:
        raise FINAL.get(kind, UsfmError)(f"worker {first}: {message}")
