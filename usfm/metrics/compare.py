"""Two ways of training compared on the same test items: the difference, its interval, and two tests of it.

Runs k of both ways have the same items; other runs may have others (folds), and patients are pooled over the runs.

The interval (bootstrap over patients, Student over seeds, see `usfm.metrics.intervals`) is the statement. The p
values are a second view of the same patients: they ask whether these differences would be a surprise if the two
ways were one, and say nothing of other training seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from usfm.errors import DataError
from usfm.metrics.intervals import Floats, Ints, Score, WeightedScore, weighted_difference
from usfm.metrics.item_scores import HIGHER_IS_BETTER, Items, column, selecting_score
from usfm.rng import generator

__all__ = ["Comparison", "compare", "fraction_to_match"]

DRAWS = 1000
PERMUTATIONS = 5000
WEIGHTS_AT_ONCE = 4_000_000  # 32 MB: thousands of items would need gigabytes
EXACT_GROUPS = 12  # up to here every one of the 2 ** groups exchanges is made


@dataclass(frozen=True)
class Comparison:
    """First minus second.

    Attributes:
        metric: the selecting score.
        difference: of the score, averaged over seeds, with a 95 % interval over patients and (more than one) seeds.
        p_permutation: share of the exchanges of whole patients between the two sides that move the score at least
            as far (two-sided).
        p_wilcoxon: signed ranks of the patients' mean differences of `value` (two-sided); 1 where none differs.
        seeds: pairs of runs.
        groups: patients, over all runs.
        items: test items, over all runs.
    """

    metric: str
    difference: Score
    p_permutation: float
    p_wilcoxon: float
    seeds: int
    groups: int
    items: int

    @property
    def better(self) -> bool:
        """Whether the whole interval says that the first is better."""
        low, high = self.difference.low, self.difference.high
        return low > 0 if HIGHER_IS_BETTER[self.metric] else high < 0


def compare(
    first: Sequence[Items],
    second: Sequence[Items],
    metric: str,
    classes: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare two ways of training from their per-item rows (`Evaluation.per_item`, `items.parquet`).

    Args:
        first: rows of every run of one way.
        second: of the other; run k is paired with run k of `first` (the same training seed).
        metric: the selecting score of the kind.
        classes: names in the order of logits (classification, multilabel).
        draws: bootstrap samples.
        seed: of the bootstrap and of the exchanges.

    Raises:
        DataError: the runs do not stand side by side: no runs, other numbers of runs, or a pair with other items.
    """
    if not first or len(first) != len(second):
        raise DataError(f"{len(first)} runs against {len(second)}; pair them by training seed")
    # runs of one test set in one order; of each other set in its own
    orders: dict[frozenset[str], list[str]] = {}
    for items in first:
        ids = [str(item["id"]) for item in items]
        orders.setdefault(frozenset(ids), ids)
    a, b = [], []
    for one, other in zip(first, second, strict=True):
        order = orders[frozenset(str(item["id"]) for item in one)]
        a.append(_in_order(one, order))
        b.append(_in_order(other, order))
    scores = [tuple(selecting_score(metric, items, classes) for items in pair) for pair in zip(a, b, strict=True)]
    # a pair whose score is not defined (AUROC of one class) says nothing, to the interval and to the tests
    said = [n for n, (one, other) in enumerate(scores) if not np.isnan(_whole(one, a[n]) - _whole(other, b[n]))]
    if not said:
        nothing = Score(float("nan"), float("nan"), float("nan"))
        return Comparison(metric, nothing, float("nan"), float("nan"), 0, 0, 0)
    a, b = [a[n] for n in said], [b[n] for n in said]
    ours, theirs = [scores[n][0] for n in said], [scores[n][1] for n in said]
    groups = [[str(item["group"]) for item in items] for items in a]
    patient = {str(item["id"]): str(item["group"]) for items in a for item in items}
    values = [_mean_values(runs, list(patient)) for runs in (a, b)]
    return Comparison(
        metric,
        weighted_difference(ours, theirs, groups, draws, seed),
        _permutation(a, b, metric, classes, groups, seed),
        _wilcoxon(values[0] - values[1], list(patient.values())),
        len(a),
        len(set(patient.values())),
        len(patient),
    )


def fraction_to_match(curve: Mapping[float, float], target: float, higher_is_better: bool = True) -> float | None:
    """The least label fraction at which a curve reaches a score, linear in the fraction's logarithm between points.

    Args:
        curve: fraction in (0, 1] to score, e.g. of a pre-trained encoder.
        target: e.g. the score from scratch with all labels.
        higher_is_better: direction of the score.

    Returns:
        The fraction; the smallest one measured where that already reaches it; None where no point does.
    """
    sign = 1 if higher_is_better else -1
    points = [(math.log(fraction), sign * (curve[fraction] - target)) for fraction in sorted(curve)]
    if points and points[0][1] >= 0:
        return min(curve)
    for (left, below), (right, above) in pairwise(points):
        if below < 0 <= above:
            return math.exp(left + (right - left) * -below / (above - below))
    return None


def _whole(score: WeightedScore, items: Items) -> float:
    return float(score(np.ones((1, len(items))))[0])


def _in_order(items: Items, order: Sequence[str]) -> Items:
    by_id = {str(item["id"]): item for item in items}
    if len(by_id) != len(items) or set(by_id) != set(order):
        odd = sorted(set(by_id) ^ set(order))[:3]
        raise DataError(f"runs were tested on different items, e.g. {odd}; compare runs of one test set")
    return [by_id[name] for name in order]


def _mean_values(runs: Sequence[Items], order: Sequence[str]) -> Floats:
    """Mean `value` of each item over the runs that have it, (n,)."""
    place = {name: n for n, name in enumerate(order)}
    total, count = np.zeros(len(order)), np.zeros(len(order))
    for items in runs:
        here = [place[str(item["id"])] for item in items]
        total[here] += column(items, "value")
        count[here] += 1
    return total / count


def _permutation(
    first: Sequence[Items], second: Sequence[Items], metric: str, classes: Sequence[str],
    groups: Sequence[Sequence[str]], seed: int,
) -> float:  # fmt: skip
    """Exchange the answers of whole patients between the sides, the same patients in every pair of runs."""
    number = {name: n for n, name in enumerate(sorted({name for of_run in groups for name in of_run}))}
    members: list[Ints] = [np.array([number[name] for name in of_run], np.int64) for of_run in groups]
    exchanged = _exchanges(len(number), seed)  # (P, groups); row 0 exchanges nothing
    # both answers of every item in one list; weights choose which of them stands on a side
    scores = [selecting_score(metric, [*a, *b], classes) for a, b in zip(first, second, strict=True)]
    moved = np.zeros(len(exchanged))
    at_once = max(1, WEIGHTS_AT_ONCE // (2 * max(map(len, members))))
    for start in range(0, len(exchanged), at_once):
        for of, of_run in zip(scores, members, strict=True):
            swapped = exchanged[start : start + at_once, of_run]  # (p, n)
            one = np.concatenate([1 - swapped, swapped], axis=1)
            other = np.concatenate([swapped, 1 - swapped], axis=1)
            moved[start : start + at_once] += of(one) - of(other)
    moved = np.abs(moved[~np.isnan(moved)])
    # the observed exchange is row 0, so p is never 0; rounding must not part equal sums
    return float((moved >= moved[0] - 1e-9).mean())


def _exchanges(groups: int, seed: int) -> Floats:
    """Which patients are exchanged, (P, groups) of 0 and 1; every way where they are few, else drawn ones."""
    if groups <= EXACT_GROUPS:
        every: Floats = (np.arange(2**groups)[:, None] >> np.arange(groups) & 1).astype(np.float64)
        return every
    drawn = generator(seed, "exchanged groups").integers(0, 2, (PERMUTATIONS, groups))
    drawn[0] = 0
    return drawn.astype(np.float64)


def _wilcoxon(difference: Floats, groups: Sequence[str]) -> float:
    from scipy.stats import wilcoxon  # slow to import

    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    per_group = np.bincount(members, difference) / np.bincount(members)
    # equal means differ by rounding alone
    per_group[np.abs(per_group) < 1e-12] = 0
    if not per_group.any():
        return 1.0
    return float(wilcoxon(per_group, zero_method="wilcox", method="auto").pvalue)
