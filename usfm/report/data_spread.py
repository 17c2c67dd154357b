"""Numbers of a stream in flat memory: quantiles, how many distinct values, and the largest few."""

import hashlib
import heapq
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DistinctCount", "Largest", "Spread"]

QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}


class Spread:
    """Quantiles of any number of values, from a histogram that also keeps each bin's mean.

    A quantile is the mean of the values in its bin: exact wherever a bin holds one distinct value (image sides,
    stated spacings), else wrong by at most the bin's width.

    Args:
        edges: (B + 1,) rising bin edges; values outside count in the first or the last bin.
    """

    def __init__(self, edges: npt.NDArray[np.float64]) -> None:
        self._edges = edges
        self._counts = np.zeros(len(edges) - 1, np.int64)
        self._sums = np.zeros(len(edges) - 1)
        self._least, self._most = np.inf, -np.inf

    @classmethod
    def logarithmic(cls, low: float, high: float, width: float = 0.005) -> "Spread":
        """Bins of equal relative width (0.005 = half a percent) from `low` to `high`."""
        return cls(np.geomspace(low, high, 1 + int(np.ceil(np.log(high / low) / np.log1p(width)))))

    @classmethod
    def linear(cls, low: float, high: float, bins: int) -> "Spread":
        """Bins of equal width."""
        return cls(np.linspace(low, high, bins + 1))

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Count (N,) finite values."""
        if not len(values):
            return
        at = np.clip(np.searchsorted(self._edges, values, "right") - 1, 0, len(self._counts) - 1)
        self._counts += np.bincount(at, minlength=len(self._counts))
        self._sums += np.bincount(at, values, minlength=len(self._sums))
        self._least, self._most = min(self._least, values.min()), max(self._most, values.max())

    @property
    def count(self) -> int:
        """Values counted."""
        return int(self._counts.sum())

    def quantile(self, share: float) -> float:
        """The value below which `share` of all lie; NaN without values."""
        if not self.count:
            return float("nan")
        rank = min(int(share * self.count), self.count - 1)  # of the sorted values, from 0
        at = int(np.searchsorted(np.cumsum(self._counts), rank, "right"))
        return float(np.clip(self._sums[at] / self._counts[at], self._least, self._most))

    def summary(self) -> dict[str, Any] | None:
        """`count`, `mean`, `min`, `p05`, `p50`, `p95`, `max`; None without values."""
        if not self.count:
            return None
        quantiles = {name: round(self.quantile(share), 6) for name, share in QUANTILES.items()}
        mean = round(float(self._sums.sum()) / self.count, 6)
        return {"count": self.count, "mean": mean, "min": float(self._least), **quantiles, "max": float(self._most)}


class DistinctCount:
    """How many different texts there are: exact up to `keep`, beyond that within about 1 / sqrt(keep).

    Source: the k-minimum-values sketch (Bar-Yossef et al., RANDOM 2002), written anew: the `keep` smallest of
    uniform hashes lie the closer together, the more texts there are.
    """

    def __init__(self, keep: int = 4096) -> None:
        self._keep = keep
        self._smallest: list[int] = []  # a heap of negated hashes, its first is the largest hash kept
        self._known: set[int] = set()

    def add(self, text: str) -> None:
        """Count one text, however often it comes."""
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        if key in self._known:
            return
        if len(self._smallest) < self._keep:
            heapq.heappush(self._smallest, -key)
            self._known.add(key)
        elif key < -self._smallest[0]:
            self._known.discard(-heapq.heapreplace(self._smallest, -key))
            self._known.add(key)

    @property
    def exact(self) -> bool:
        """Whether `count` is no estimate."""
        return len(self._smallest) < self._keep

    @property
    def count(self) -> int:
        """How many texts."""
        if self.exact:
            return len(self._smallest)
        return round((self._keep - 1) * 2.0**64 / -self._smallest[0])


class Largest:
    """The `keep` entries of the largest score, of each `key` at most `keep_each`."""

    def __init__(self, keep: int, keep_each: int) -> None:
        self._keep, self._keep_each = keep, keep_each
        self._heaps: dict[str, list[tuple[float, str, int]]] = {}

    def add(self, key: str, score: float, path: str, row: int) -> None:
        """Consider row number `row` of the shard `path`."""
        heap = self._heaps.setdefault(key, [])
        heapq.heappush(heap, (score, path, row))
        if len(heap) > self._keep_each:
            heapq.heappop(heap)

    def ordered(self) -> list[tuple[float, str, int]]:
        """(score, path, row), the largest score first."""
        entries = [entry for heap in self._heaps.values() for entry in heap]
        return sorted(entries, key=lambda entry: (-entry[0], entry[1], entry[2]))[: self._keep]
