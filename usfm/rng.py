"""Random draws as pure functions of (seed, purpose): no generator state to save, none to lose.

Draws on tensors, per sample, are in `usfm.draws`; this module needs numpy alone, so that tasks that only read data
start fast.
"""

import hashlib

import numpy as np

__all__ = ["generator", "stream_key"]


def stream_key(seed: int, *purpose: str | int) -> int:
    """A 63-bit key that names one stream of draws, e.g. `stream_key(seed, "patch mask")`."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A numpy generator for one purpose; equal arguments give equal draws."""
    return np.random.default_rng(stream_key(seed, *purpose))
