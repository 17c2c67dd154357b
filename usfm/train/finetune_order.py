"""Which labelled rows a step takes: pure functions of (seed, position), so nothing of the order is saved."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from usfm.rng import generator

__all__ = ["balanced_rows", "shuffled_rows"]

Rows = npt.NDArray[np.int64]


def shuffled_rows(positions: Rows, chosen: Rows, seed: int, *purpose: str) -> Rows:
    """Every chosen row once, shuffled, then again in another order, and so on.

    Args:
        positions: (B,) places in that endless list, 0-based.
        chosen: (n,) rows, n >= 1.
        seed: of the run.
        purpose: names this list among the run's others.

    Returns:
        (B,) rows.
    """
    rounds = {
        int(turn): generator(seed, "finetune order", *purpose, int(turn)).permutation(chosen)
        for turn in np.unique(positions // len(chosen))
    }
    return np.array([rounds[int(p) // len(chosen)][int(p) % len(chosen)] for p in positions], np.int64)


def balanced_rows(positions: Rows, chosen: Rows, strata: Sequence[str], seed: int) -> Rows:
    """Every stratum equally often: shuffled rounds of one row of each, the rows of a stratum as `shuffled_rows`.

    Args:
        positions: (B,) places in the endless list.
        chosen: (n,) rows.
        strata: stratum of every row of the set (not only of the chosen ones).
        seed: of the run.

    Returns:
        (B,) rows.
    """
    members: dict[str, list[int]] = {}
    for row in chosen:
        members.setdefault(strata[int(row)], []).append(int(row))
    names = sorted(members)
    turns = positions // len(names)
    order = {
        int(turn): generator(seed, "finetune strata", int(turn)).permutation(len(names)) for turn in set(turns)
    }
    which = np.array([order[int(turn)][int(p) % len(names)] for p, turn in zip(positions, turns, strict=True)])
    rows = np.empty(len(positions), np.int64)
    for number, name in enumerate(names):
        mine = which == number
        rows[mine] = shuffled_rows(turns[mine], np.array(members[name]), seed, name)
    return rows
