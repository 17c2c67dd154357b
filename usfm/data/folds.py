"""Folds of patients: each is in one of them, with all rows; strata (classes, sources) are spread evenly."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from usfm.errors import DataError
from usfm.rng import stream_key

__all__ = ["NO_FOLD", "deal", "dealt_digest", "group_folds", "parts"]

NO_FOLD = -1
"""Of a row whose patient is not known."""
SEED = stream_key(0, "folds of patients")
RARE = "\x00rare"
Ints = npt.NDArray[np.int64]


def group_folds(labels: npt.NDArray[np.generic], groups: Sequence[str], folds: int, seed: int) -> Ints:
    """Fold of each row, (n,) in [0, folds): whole groups, classes spread evenly (scikit-learn).

    Args:
        labels: (n,) class of each row.
        groups: group of each row; the order of rows changes nothing.
        folds: how many.
        seed: of the dealing.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # a second that tasks without folds need not wait

    number = np.empty(len(labels), np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # a class of fewer rows than folds cannot be in all of them; it is dealt as evenly as it goes
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for fold, (_, out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            number[out] = fold
    return number


def deal(patients: Sequence[str], strata: Sequence[str], folds: int, what: str) -> Ints:
    """Deal the patients of a task into folds: a function of these rows alone, in whatever order they come.

    Args:
        patients: of each row; "" = not known.
        strata: of each row; those with fewer rows than folds are spread as one.
        folds: how many.
        what: whose patients, for a complaint.

    Returns:
        (n,) number of the fold in [0, folds), `NO_FOLD` where the patient is not known.

    Raises:
        DataError: fewer known patients than folds, or a fold that none is dealt into.
    """
    number = np.full(len(patients), NO_FOLD, np.int64)
    known = np.array([name != "" for name in patients], np.bool_)
    groups = [name for name in patients if name]
    if len(set(groups)) < folds:
        raise DataError(
            f"{what}: {len(set(groups))} known patients cannot be dealt into {folds} folds; add patients, set "
            "fewer folds (at least 3), or use split_by=split"
        )
    of_known = [stratum for stratum, name in zip(strata, patients, strict=True) if name]
    rows = Counter(of_known)
    number[known] = group_folds(
        np.array([stratum if rows[stratum] >= folds else RARE for stratum in of_known]), groups, folds, SEED
    )
    if empty := sorted(set(range(folds)) - set(number.tolist())):
        raise DataError(
            f"{what}: fold {empty[0]} of {folds} is empty, since a few patients have most rows; set fewer folds "
            "(at least 3), or use split_by=split"
        )
    return number


def parts(number: Ints, fold: int, folds: int) -> dict[str, Ints]:
    """Rows to train on, to select a step by and to test on, where one fold is tested.

    Args:
        number: fold of each row, as of `deal`.
        fold: the one that is tested; the next one validates, and all others and rows of no fold train.
        folds: how many.

    Returns:
        Positions of rows, rising, by "train", "val" and "test".
    """
    after = (fold + 1) % folds
    return {
        "train": np.flatnonzero((number != fold) & (number != after)),
        "val": np.flatnonzero(number == after),
        "test": np.flatnonzero(number == fold),
    }


def dealt_digest(ids: Sequence[str], number: Ints) -> str:
    """Which rows are in which fold, in 12 hex digits: the same for the same folds, in whatever order rows come.

    Rows of no fold are left out: they always train, and more of them change no fold.

    Args:
        ids: of the rows.
        number: fold of each row, as of `deal`.
    """
    lines = sorted(f"{name}\t{fold}\n" for name, fold in zip(ids, number.tolist(), strict=True) if fold != NO_FOLD)
    return hashlib.blake2b("".join(lines).encode(), digest_size=6).hexdigest()
