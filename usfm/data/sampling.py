"""Organ-balanced sampling: sample i of a run is a pure function of (seed, i, alpha, organ sizes).

Organ o is drawn with share p_o ~ n_o ** alpha: alpha = 0 is balanced, alpha = 1 natural (`usfm.data.shares`).
Nothing is drawn at random with replacement; three ideas make the stream exact, resumable from one integer, and
cheap to plan:

1. The stream is cut into chunks of C samples. Chunk c takes floor(C p_o) samples of each organ; the rest of its
   places go by systematic sampling (one comb over the fractional parts, its offset from a van der Corput
   sequence), so every organ is within one sample of C p_o in every chunk and exact over a period of chunks.
2. Each organ is an endless tape: its shards in a seeded order, rows shuffled within each shard, both shuffled
   anew at each pass. No row repeats before its organ's pass is over, and reading stays within a few shards.
3. Where the tape of organ o stands at chunk c has a closed form, so no state is kept and nothing is replayed.

Balancing by source or device within an organ gives each (organ, source) a tape of its own. The comb runs over the
tapes in name order, so an organ's tapes stand together and the organ, too, is within one sample of its share.

An epoch is a count of samples, not a pass: epoch e of E samples is the range [e E, (e + 1) E) of the stream.
Source: USFM (arXiv 2401.00153) states organ-balanced sampling without a formula; this one is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from usfm.rng import generator

__all__ = ["SamplePlan", "Samples", "Tape"]

Ints = npt.NDArray[np.int64]
PERIOD = 1024  # chunks after which the comb's offsets repeat; shares are exact over one period


class Tape:
    """The endless, seeded sequence of one organ's (or organ and source's) rows; position t is in pass t // rows."""

    def __init__(self, seed: int, name: str, shard_rows: Sequence[int]) -> None:
        self.seed, self.name = seed, name
        self.shard_rows = np.asarray(shard_rows, dtype=np.int64)  # (S,)
        self.rows = int(self.shard_rows.sum())
        # a chunk touches few passes and few shards of each; both caches stay small
        self._order = lru_cache(maxsize=4)(self._order_of_pass)
        self._within = lru_cache(maxsize=64)(self._order_within)

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """Shard number and row within the shard at each tape position, both (n,)."""
        shard, row = np.empty_like(positions), np.empty_like(positions)
        passes = positions // self.rows
        for number in np.unique(passes):
            here = passes == number
            order, ends = self._order(int(number))
            offset = positions[here] % self.rows
            slot = np.searchsorted(ends, offset, side="right")
            shard[here] = order[slot]
            within = offset - (ends[slot] - self.shard_rows[order[slot]])
            rows = np.empty_like(within)
            for number_of_shard in np.unique(order[slot]):
                of_shard = order[slot] == number_of_shard
                rows[of_shard] = self._within(int(number), int(number_of_shard))[within[of_shard]]
            row[here] = rows
        return shard, row

    def _order_of_pass(self, number: int) -> tuple[Ints, Ints]:
        order = generator(self.seed, "shards", self.name, number).permutation(len(self.shard_rows))
        return order, np.cumsum(self.shard_rows[order])

    def _order_within(self, number: int, shard: int) -> Ints:
        rng = generator(self.seed, "rows", self.name, number, shard)
        order: Ints = rng.permutation(int(self.shard_rows[shard]))
        return order


@dataclass(frozen=True)
class Samples:
    """Where some samples of the stream are stored; all (n,) int64."""

    index: Ints  # global sample index
    tape: Ints  # position in SamplePlan.names
    shard: Ints  # position in that tape's list of shards
    row: Ints  # row within the shard


class SamplePlan:
    """The whole stream of a run, addressable by global sample index."""

    def __init__(
        self, seed: int, shard_rows: Mapping[str, Sequence[int]], shares: Mapping[str, float], chunk_size: int
    ) -> None:
        """Plan a stream.

        Args:
            seed: of the run.
            shard_rows: rows of each shard, by tape.
            shares: share of each tape; they sum to one. Tapes keep this order.
            chunk_size: C, samples per chunk.
        """
        self.seed, self.chunk_size = seed, chunk_size
        self.names = list(shares)
        self.shares = dict(shares)
        self.tapes = [Tape(seed, name, shard_rows[name]) for name in self.names]
        expected = chunk_size * np.array([self.shares[name] for name in self.names])  # (K,)
        self._base = np.floor(expected).astype(np.int64)
        extra = _comb(expected - self._base)  # (PERIOD, K) of 0 and 1
        self._extra = extra
        self._extra_before = np.concatenate([np.zeros_like(extra[:1]), np.cumsum(extra, axis=0)])
        self._chunk = lru_cache(maxsize=8)(self._plan_chunk)

    def counts(self, chunk: int) -> Ints:
        """Samples of each tape in a chunk, (K,); they sum to the chunk size."""
        counts: Ints = self._base + self._extra[chunk % PERIOD]
        return counts

    def tape_starts(self, chunk: int) -> Ints:
        """Position of each tape at the start of a chunk, (K,)."""
        periods, within = divmod(chunk, PERIOD)
        per_period = self._extra_before[PERIOD]
        starts: Ints = chunk * self._base + periods * per_period + self._extra_before[within]
        return starts

    def locate(self, index: Ints) -> Samples:
        """Where the samples with these global indices are stored, in the order asked for."""
        index = np.asarray(index, dtype=np.int64)
        tape, shard, row = np.empty_like(index), np.empty_like(index), np.empty_like(index)
        chunks = index // self.chunk_size
        for chunk in np.unique(chunks):
            here = chunks == chunk
            planned = self._chunk(int(chunk))
            at = index[here] % self.chunk_size
            tape[here], shard[here], row[here] = planned.tape[at], planned.shard[at], planned.row[at]
        return Samples(index, tape, shard, row)

    def _plan_chunk(self, chunk: int) -> Samples:
        counts, starts = self.counts(chunk), self.tape_starts(chunk)
        tape = np.repeat(np.arange(len(counts)), counts)  # (C,)
        shard, row = np.empty_like(tape), np.empty_like(tape)
        spread = np.empty(self.chunk_size)
        rng = generator(self.seed, "chunk", chunk)
        for k, (count, start) in enumerate(zip(counts, starts, strict=True)):
            here = tape == k
            shard[here], row[here] = self.tapes[k].locate(start + np.arange(count))
            # stratified: the j-th of n samples falls into the j-th n-th of the chunk, so batches are balanced too
            spread[here] = (np.arange(count) + rng.random(count)) / max(count, 1)
        order = np.argsort(spread, kind="stable")
        index = chunk * self.chunk_size + np.arange(self.chunk_size)
        return Samples(index, tape[order], shard[order], row[order])


def _comb(fraction: npt.NDArray[np.float64]) -> Ints:
    """Which tapes get one extra sample in each chunk of a period, (PERIOD, K) of 0 and 1.

    `fraction` (K,) sums to an integer R. A comb of spacing one, shifted by an offset in [0, 1), has R teeth in
    [0, R); tape k owns an interval of length fraction[k] and so gets at most one tooth.
    """
    bits = PERIOD.bit_length() - 1
    offsets = np.array([int(f"{c:0{bits}b}"[::-1], 2) for c in range(PERIOD)]) / PERIOD  # van der Corput, base 2
    edges = np.concatenate([[0.0], np.cumsum(fraction)])
    edges = np.minimum(edges, np.round(edges[-1]))  # rounding must neither add nor lose the last tooth
    edges[-1] = np.round(edges[-1])
    teeth_below = np.ceil(edges[None, :] - offsets[:, None])  # teeth in [0, edge), (PERIOD, K + 1)
    extra: Ints = np.diff(teeth_below, axis=1).astype(np.int64)
    return extra
