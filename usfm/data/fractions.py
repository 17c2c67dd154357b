"""Label fractions of a training set: nested, stratified, and never part of a patient."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig

__all__ = ["fraction_rows", "label_fraction", "strata"]


def strata(data: LabelledSet, task: TaskConfig) -> list[str]:
    """What a label fraction keeps the shares of: classes, combinations of classes, or else sources."""
    if task.kind == "classification":
        return [str(k) for k in data.label]
    if task.kind == "multilabel":
        return ["".join(str(int(on)) for on in row) for row in data.target]
    return data.sources


def fraction_rows(train: LabelledSet, task: TaskConfig, fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """Rows of a training set that belong to a label fraction, ascending; see `label_fraction`."""
    chosen = label_fraction(train.groups, strata(train, task), fraction, seed, _classes_shown(train, task))
    return chosen.nonzero()[0]


def _classes_shown(data: LabelledSet, task: TaskConfig) -> list[list[int]]:
    """Numbers of the classes that each row shows; [] for a task without classes."""
    if task.kind == "classification":
        return [[int(k)] for k in data.label]
    if task.kind == "multilabel":
        return [np.flatnonzero(row).tolist() for row in data.target]
    if task.kind == "segmentation":
        return [np.flatnonzero(np.bincount(mask.ravel())).tolist() for mask in data.mask]
    return []


def label_fraction(
    groups: Sequence[str], strata: Sequence[str], fraction: float, seed: int, shown: Sequence[Sequence[int]] = ()
) -> npt.NDArray[np.bool_]:
    """Rows that belong to a label fraction: whole groups, stratified, nested.

    Within each stratum groups are ordered by a hash of (seed, group) and the first ceil(fraction n) are taken, so
    the 5 % set lies inside the 10 % set of the same seed, and every stratum keeps at least one group. A class that
    no group of these shows (it may be nowhere the most frequent one) brings in the group that would show it first.

    Args:
        groups: group of each row.
        strata: stratum of each row (class or source); a group belongs to its most frequent one.
        fraction: in (0, 1].
        seed: which nested family of sets.
        shown: classes of each row, every one of which has to be there; () = nothing is asked for.

    Returns:
        (n,) bool, True = in the fraction.
    """
    votes: dict[str, Counter[str]] = {}
    for group, stratum in zip(groups, strata, strict=True):
        votes.setdefault(group, Counter())[stratum] += 1
    members: dict[str, list[str]] = {}
    for group, counted in votes.items():
        winner = min(counted, key=lambda s: (-counted[s], s))
        members.setdefault(winner, []).append(group)
    taken: set[str] = set()
    drawn = {group: hashlib.blake2b(f"{seed}\x1f{group}".encode()).digest() for group in votes}
    entry: dict[str, tuple[float, bytes]] = {}  # the fraction above which a group is taken
    for of_stratum in members.values():
        ordered = sorted(of_stratum, key=drawn.__getitem__)
        taken.update(ordered[: math.ceil(round(fraction * len(ordered), 9))])
        entry |= {group: (place / len(ordered), drawn[group]) for place, group in enumerate(ordered)}
    first: dict[int, str] = {}
    for group, classes in zip(groups, shown, strict=bool(shown)):
        for number in classes:
            first[number] = min(first.get(number, group), group, key=lambda g: entry[g])
    # whatever the fraction is, so that the sets stay nested
    taken.update(first.values())
    return np.array([group in taken for group in groups], dtype=np.bool_)
