"""The same bits each time: torch's deterministic algorithms while a step is computed, and only then.

Without them the backward passes of convolutions and attention add up in whatever order a GPU gets there, and so
does that of the relative position bias on a CPU with several threads.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from usfm.errors import ConfigError

__all__ = ["CUBLAS", "determined"]

CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Environment variable, and the value that deterministic matrix products need before the first one of a process."""
OFF = "set speed.deterministic=false: the run then goes on after a stop with losses that differ by rounding"
ERROR = 2  # of torch's deterministic debug mode: what has no deterministic algorithm raises


@contextmanager
def determined(on: bool, device: torch.device, otherwise: str = OFF) -> Iterator[None]:
    """What is computed inside has the same bits whenever it is computed again on the same kind of processor.

    Not promised for compiled code, whose kernels are chosen by timing them.

    Args:
        on: False = nothing is changed.
        device: where it is computed.
        otherwise: what a person can do where it cannot be had; the default is of pre-training.

    Raises:
        ConfigError: torch has no such algorithm for an operation that is used, or a process that used the GPU
            before did not have `CUBLAS` in its environment.
    """
    if not on:
        yield
        return
    if device.type == "cuda":
        os.environ.setdefault(*CUBLAS)
    memory: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), memory.fill_uninitialized_memory
    torch.set_deterministic_debug_mode(ERROR)
    memory.fill_uninitialized_memory = False  # for finding bugs of torch; it costs a pass over every buffer
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" in str(error):
            raise ConfigError(f"the same bits each time: {error} What to do: {otherwise}") from error
        if CUBLAS[0] in str(error):
            raise ConfigError(
                f"the same bits each time need {'='.join(CUBLAS)} in the environment of a process that computes on "
                f"the GPU before it trains; set it, or {otherwise}"
            ) from error
        raise
    finally:
        torch.set_deterministic_debug_mode(before[0])
        memory.fill_uninitialized_memory = before[1]
