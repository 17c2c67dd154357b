"""Train, validation or test by patient group: a hash decides, and a floor fills strata that a hash leaves bare.

What stays when data is added, and what may move:

* A group's hash position depends on the seed and the group's name alone. A group that no floor touched keeps its
  split for ever, on every machine, whatever else the archive holds.
* A stratum is an organ, or an organ with a label. One that has `min_groups` known groups or more, and yet no group
  in a split, gets the group whose position lies nearest to that split. Such a borrowed group returns to its own
  split as soon as added data brings the stratum one of its own. `keep` pins it, with all others.
* Rows whose group is not known train: a group that is not known cannot be proven disjoint from another, so such
  rows may not measure anything. Only a split that the publisher states (`official`) may place them elsewhere.
"""

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.data.schema import SPLITS

__all__ = ["SPLIT_ORDER", "SplitConfig", "assign", "position", "split_of"]

SPLIT_ORDER = ("test", "val", "train")
"""Along the axis of positions: test first, so that it does not depend on the fraction of validation."""
FREE = -1


class SplitConfig(Config):
    """Fractions of patient groups (not of images), and what overrules the hash.

    Attributes:
        val: expected fraction of groups in validation.
        test: expected fraction of groups in test.
        seed: another seed is another split.
        min_groups: a stratum (organ, or organ and label) with so many known groups has a group in every split
            whose fraction is not 0; 0 = no such floor.
        official: take the split that a source publishes, where it does. A group that it cuts goes whole to
            the most held-out of its splits: test, else val.
        keep: location of earlier shards, or of their `splits.csv`; groups there keep their split.
    """

    val: float = Field(default=0.1, ge=0.0, lt=1.0)
    test: float = Field(default=0.2, ge=0.0, lt=1.0)
    seed: int = 0
    min_groups: int = Field(default=5, ge=0)
    official: bool = False
    keep: str = ""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val {self.val} + test {self.test} leave nothing to train on; their sum must be below 1"
            )
        if 0 < self.min_groups < len(SPLITS):
            raise ValueError(f"min_groups is {self.min_groups}; {len(SPLITS)} splits need as many groups, or 0")
        return self

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Ends of the splits' intervals on the axis of positions, in `SPLIT_ORDER`."""
        return (0.0, self.test, self.test + self.val, 1.0)


def position(group: str, seed: int) -> float:
    """Where a group lies in [0, 1): a hash of (seed, group), evenly spread."""
    digest = hashlib.blake2b(f"{seed}\x1f{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def split_of(group: str, config: SplitConfig) -> str:
    """The split of a patient group by its hash alone.

    Args:
        group: the group's key, "<source>/<group>", or "".
        config: fractions and seed.

    Returns:
        "train", "val" or "test"; "train" for "".
    """
    if not group:
        return "train"
    return SPLIT_ORDER[int(_by_position(np.array([position(group, config.seed)]), config)[0])]


def assign(
    positions: npt.NDArray[np.float64],
    strata: Sequence[npt.NDArray[np.int64]],
    fixed: npt.NDArray[np.int8],
    config: SplitConfig,
) -> npt.NDArray[np.int8]:
    """Splits of all groups: by position, then the floor of each stratum in turn.

    A group is borrowed only if no stratum loses its last group of a split by it; where every group of a stratum
    is bound like that (strata that share their few groups), the stratum stays without. A pure function.

    Args:
        positions: (G,) of the groups, in the order of their names.
        strata: groups (numbers 0 .. G - 1, no repeats) of each stratum, in a fixed order.
        fixed: (G,) number in `SPLIT_ORDER` of a group that may not move, -1 = free.
        config: fractions and floor.

    Returns:
        (G,) numbers in `SPLIT_ORDER`.
    """
    split = np.where(fixed == FREE, _by_position(positions, config), fixed).astype(np.int8)
    large = [members for members in strata if config.min_groups and len(members) >= config.min_groups]
    low, high = np.array(config.bounds[:-1]), np.array(config.bounds[1:])
    counts = np.array([np.bincount(split[members], minlength=3) for members in large]).reshape(-1, 3)
    bare = (counts == 0) & (high > low)
    strata_of = _strata_of([members for members, lacks in zip(large, bare, strict=True) if lacks.any()], large)
    moved = True
    while moved:  # a group that moved may have made another one dispensable; every move fills a bare place
        moved = False
        for number, wanted in np.argwhere((counts == 0) & (high > low)):
            free = large[number][fixed[large[number]] == FREE]
            away = np.maximum(low[wanted] - positions[free], positions[free] - high[wanted])
            for group in free[np.lexsort((free, away))] if not counts[number, wanted] else ():
                touched = strata_of[int(group)]
                if (counts[touched, split[group]] > 1).all():
                    counts[touched, split[group]] -= 1
                    counts[touched, wanted] += 1
                    split[group] = wanted
                    moved = True
                    break
    return split


def _by_position(positions: npt.NDArray[np.float64], config: SplitConfig) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.array(config.bounds[1:3]), positions, side="right")


def _strata_of(
    bare: Sequence[npt.NDArray[np.int64]], strata: Sequence[npt.NDArray[np.int64]]
) -> dict[int, list[int]]:
    """The strata of each group that may be borrowed."""
    found: dict[int, list[int]] = {group: [] for members in bare for group in members.tolist()}
    for number, members in enumerate(strata if found else ()):
        for group in members.tolist():
            if group in found:
                found[group].append(number)
    return found
