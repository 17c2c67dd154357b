"""Draws on tensors: a draw is a hash of its address, so there is no generator state to save, and none to lose.

`mix64` is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014, written anew); the same bits come out on CPU and on CUDA, whatever the batch or the number of workers.
"""

import torch

__all__ = ["mix64", "uniform"]

_GOLDEN = 0x9E3779B97F4A7C15
_MUL_1 = 0xBF58476D1CE4E5B9
_MUL_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer that torch stores."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) right shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix64(x: torch.Tensor) -> torch.Tensor:
    """The SplitMix64 finaliser on int64 bit patterns of any shape: a bijection that looks random."""
    x = (x ^ _shift(x, 30)) * _signed(_MUL_1)
    x = (x ^ _shift(x, 27)) * _signed(_MUL_2)
    return x ^ _shift(x, 31)


def uniform(key: int, index: torch.Tensor, draws: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), a pure function of (key, index, draw number).

    Args:
        key: from `stream_key`.
        index: (B,) int64 sample indices, on any device.
        draws: numbers per sample.

    Returns:
        (B, draws) float32 on the device of `index`, multiples of 2**-24.
    """
    counter = torch.arange(1, draws + 1, dtype=torch.int64, device=index.device)
    base = mix64(index.to(torch.int64) * _signed(_GOLDEN) + key)
    bits = mix64(base[:, None] + counter[None, :] * _signed(_GOLDEN))
    return _shift(bits, 40).to(torch.float32) * 2.0**-24
