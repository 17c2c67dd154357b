"""The same bits on every run of a GPU: torch's deterministic algorithms while a step is computed, and only then.

Without them the backward passes of convolutions and of attention add up in whatever order the GPU gets there. CPUs
need nothing of this.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from usfm.errors import ConfigError

__all__ = ["determined"]

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def determined(on: bool, device: torch.device) -> Iterator[None]:
    """What is computed inside has the same bits whenever it is computed again on the same kind of GPU.

    Args:
        on: False = nothing is changed.
        device: where it is computed; a CPU needs nothing.

    Raises:
        ConfigError: torch has no such algorithm for an operation that is used.
    """
    if not on or device.type != "cuda":
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")  # cuBLAS reads it with its first product
    memory: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # for finding bugs of torch; it costs a pass over every buffer
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise ConfigError(
            f"speed.deterministic: {error} Set speed.deterministic=false: the run then goes on after a stop with "
            "losses that differ by rounding"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
