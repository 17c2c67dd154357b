"""Intervals by resampling patients: frames of one patient are no independent witnesses.

Percentile bootstrap over groups (Efron); one draw of groups serves every score and, for two models on the same
items, both of them, so that differences are paired. Training runs are few, where a bootstrap is much too narrow
(of three runs it knows three values): a t quantile stands for them (Student), see `_over_seeds`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usfm.rng import generator

__all__ = [
    "Score",
    "WeightedScore",
    "class_scores",
    "class_scores_difference",
    "class_scores_over_seeds",
    "mean_score",
    "mean_score_difference",
    "mean_score_over_seeds",
    "weighted_difference",
    "weighted_score",
    "weighted_scores",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
# weights of n items, one row per draw, (D, n), to the score of each draw, (D,); NaN where it is not defined
WeightedScore = Callable[[Floats], Floats]
LEVEL = 0.95


@dataclass(frozen=True)
class Score:
    """A value and its 95 % interval over groups, and over runs where several were trained."""

    value: float
    low: float
    high: float


def class_scores(
    predicted: Ints, truth: Ints, groups: Sequence[str], classes: int, draws: int, seed: int
) -> dict[str, Score]:
    """Balanced accuracy and macro F1 over the classes that occur in `truth`.

    Args:
        predicted: (n,) class numbers.
        truth: (n,) class numbers.
        groups: patient of each item.
        classes: number of classes.
        draws: bootstrap samples.
        seed: of the samples.
    """
    counts, weight = _confusions(predicted, truth, groups, classes), _weights(groups, draws, seed)
    return {name: _score(of, counts, weight) for name, of in _CLASS_SCORES.items()}


def class_scores_difference(
    first: Ints, second: Ints, truth: Ints, groups: Sequence[str], classes: int, draws: int, seed: int
) -> dict[str, Score]:
    """First minus second, paired over groups; arguments as of `class_scores`."""
    a, b = (_confusions(predicted, truth, groups, classes) for predicted in (first, second))
    both, weight = np.concatenate([a, b], axis=-1), _weights(groups, draws, seed)
    return {
        name: _score(lambda c, of=of: of(c[..., :classes]) - of(c[..., classes:]), both, weight)  # type: ignore[misc]
        for name, of in _CLASS_SCORES.items()
    }


def mean_score(values: Floats, groups: Sequence[str], draws: int, seed: int) -> Score:
    """Mean of a score per item, (n,)."""
    members = _members(groups)
    sums = np.zeros((members.max() + 1, 2))
    np.add.at(sums, members, np.stack([values, np.ones_like(values)], axis=1))
    return _score(_ratio, sums, _weights(groups, draws, seed))


def mean_score_difference(first: Floats, second: Floats, groups: Sequence[str], draws: int, seed: int) -> Score:
    """Mean of first minus second over the same items."""
    return mean_score(first - second, groups, draws, seed)


def class_scores_over_seeds(
    first: Sequence[Ints], second: Sequence[Ints], truth: Ints, groups: Sequence[str], classes: int, draws: int,
    seed: int,
) -> dict[str, Score]:  # fmt: skip
    """First minus second, averaged over S pairs of training runs, for other patients and other runs.

    The interval joins the bootstrap over patients of this average with Student's t over runs (see `_over_seeds`).
    One pair has no spread of runs: its interval is that of `class_scores_difference`, over patients alone.

    Args:
        first: predictions (n,) of each run of one kind.
        second: of each run of the other kind; run k is paired with run k of `first` (the same training seed).
        truth: (n,) class numbers.
        groups: patient of each item.
        classes: number of classes.
        draws: bootstrap samples.
        seed: of the samples.
    """
    weight = _weights(groups, draws, seed)
    # (S, G, K, K)
    sides = [np.stack([_confusions(p, truth, groups, classes) for p in runs]) for runs in (first, second)]
    return {name: _over_seeds(of, sides, weight) for name, of in _CLASS_SCORES.items()}


def mean_score_over_seeds(
    first: Sequence[Floats], second: Sequence[Floats], groups: Sequence[str], draws: int, seed: int
) -> Score:
    """The same for a score per item, (n,) for each run."""
    members = _members(groups)
    sides = []
    for runs in (first, second):
        sums = np.zeros((len(runs), members.max() + 1, 2))
        for run, values in enumerate(runs):
            np.add.at(sums[run], members, np.stack([values, np.ones_like(values)], axis=1))
        sides.append(sums)
    return _over_seeds(_ratio, sides, _weights(groups, draws, seed))


def weighted_score(of: WeightedScore, groups: Sequence[str], draws: int, seed: int) -> Score:
    """Any score that is defined for weighted items; an item weighs as often as its group is drawn.

    Args:
        of: the score.
        groups: patient of each item.
        draws: bootstrap samples; 0 = no interval (NaN).
        seed: of the samples.
    """
    return weighted_scores({"": of}, groups, draws, seed)[""]


def weighted_scores(
    asked: Mapping[str, WeightedScore], groups: Sequence[str], draws: int, seed: int
) -> dict[str, Score]:
    """Several of them, by name, from the same draws."""
    ones, weights = np.ones((1, len(groups))), _weights(groups, draws, seed)[:, _members(groups)]
    return {name: Score(float(of(ones)[0]), *_percentiles(of(weights))) for name, of in asked.items()}


def weighted_difference(
    first: Sequence[WeightedScore],
    second: Sequence[WeightedScore],
    groups: Sequence[Sequence[str]],
    draws: int,
    seed: int,
) -> Score:
    """First minus second of any weighted score, averaged over S pairs of runs.

    Run k of `first` and of `second` were scored on the same items; those of another pair may be others (folds). One
    draw of the patients of all runs together serves every run, with the weights of its own items. The interval is
    that of `class_scores_over_seeds`: patients and, for S > 1, runs. Where no two runs have a patient in common,
    runs differ by their patients too: Student's t then knows of both, the bootstrap of patients alone, and the
    wider one of a side is taken, which guards against a small spread of a few runs by luck (joined they would count
    patients twice: 99 % where 95 % is said, in a simulation of five folds whose runs are alike). A draw's
    difference is the mean over the runs where it is defined; a run whose own difference is not (AUROC of one class)
    does not count at all.

    Args:
        first: score of each run of one kind.
        second: of each run of the other kind.
        groups: of each pair the patient of each item.
        draws: bootstrap samples.
        seed: of the samples.
    """
    patients = [name for of_run in groups for name in of_run]
    members, weights = _members(patients), _weights(patients, draws, seed)
    differences, drawn, start = [], [], 0
    for a, b, of_run in zip(first, second, groups, strict=True):
        ones = np.ones((1, len(of_run)))
        differences.append(float(a(ones)[0] - b(ones)[0]))
        drawn.append(_drawn(a, b, weights[:, members[start : start + len(of_run)]]))
        start += len(of_run)
    defined = ~np.isnan(differences)
    if not defined.any():
        return Score(float("nan"), float("nan"), float("nan"))
    apart = len(set(patients)) == sum(len(set(of_run)) for of_run in groups)
    return _joined(np.array(differences)[defined], np.stack(drawn)[defined], apart)


def _drawn(a: WeightedScore, b: WeightedScore, weights: Floats) -> Floats:
    """Difference in each draw (D,) from weights (D, n); NaN where no item of this run has a weight."""
    met = weights.any(axis=1)
    if met.all():
        return a(weights) - b(weights)
    made = np.full(len(weights), np.nan)
    if met.any():
        made[met] = a(weights[met]) - b(weights[met])
    return made


def _ratio(total: Floats) -> Floats:
    mean: Floats = total[..., 0] / total[..., 1]
    return mean


def _over_seeds(of: Callable[[Floats], Floats], sides: Sequence[Floats], weights: Floats) -> Score:
    """A difference of scores of two sides' counts (S, G, ...), averaged over the S runs.

    With v the average, [p_low, p_high] its percentile interval over groups with these very runs, and
    h = t_{0.975, S-1} sd(differences of the runs) / sqrt(S) for S > 1, the interval is
    v - sqrt((v - p_low)^2 + h^2) to v + sqrt((p_high - v)^2 + h^2); for S = 1 it is [p_low, p_high]. It errs on the
    wide side: what runs differ in on these patients alone is counted in both parts.
    """
    a, b = sides
    differences = of(a.sum(axis=1)) - of(b.sum(axis=1))  # (S,)
    pairs = zip(a, b, strict=True)
    drawn = [of(np.tensordot(weights, x, 1)) - of(np.tensordot(weights, y, 1)) for x, y in pairs]
    return _joined(differences, np.stack(drawn))


def _joined(differences: Floats, drawn: Floats, apart: bool = False) -> Score:
    """The interval that `_over_seeds` states, of differences of runs (S,) and their bootstrap draws (S, D).

    A draw is averaged over the runs where it is defined (not NaN). `apart`: see `weighted_difference`.
    """
    value, runs = float(differences.mean()), len(differences)
    defined = ~np.isnan(drawn)
    among = defined.sum(axis=0)
    total = np.where(defined, drawn, 0.0).sum(axis=0)
    low, high = _percentiles(np.divide(total, among, out=np.full(len(total), np.nan), where=among > 0))
    if runs == 1 or np.isnan(low):
        return Score(value, low, high)
    from scipy.stats import t as student  # a second and more that a training process need not wait for

    half = student.ppf((1 + LEVEL) / 2, runs - 1) * differences.std(ddof=1) / np.sqrt(runs)
    # a skewed score's percentiles may lie on one side of its value: that side then has the runs' width alone
    below, above = max(value - low, 0.0), max(high - value, 0.0)
    join = np.maximum if apart else np.hypot
    return Score(value, float(value - join(below, half)), float(value + join(above, half)))


def _percentiles(drawn: Floats) -> tuple[float, float]:
    """Ends of the interval; draws in which the score is not defined (NaN) do not count."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _balanced_accuracy(confusion: Floats) -> Floats:
    """(..., K, K), rows = truth, to (...,); classes without items do not count."""
    occurs = confusion.sum(axis=-1)
    recall = np.divide(_diagonal(confusion), occurs, out=np.zeros_like(occurs), where=occurs > 0)
    mean: Floats = recall.sum(axis=-1) / np.maximum((occurs > 0).sum(axis=-1), 1)
    return mean


def _macro_f1(confusion: Floats) -> Floats:
    occurs, claimed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    both = occurs + claimed
    f1 = np.divide(2 * _diagonal(confusion), both, out=np.zeros_like(both), where=both > 0)
    mean: Floats = np.where(occurs > 0, f1, 0).sum(axis=-1) / np.maximum((occurs > 0).sum(axis=-1), 1)
    return mean


_CLASS_SCORES: dict[str, Callable[[Floats], Floats]] = {
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
}


def _diagonal(confusion: Floats) -> Floats:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _confusions(predicted: Ints, truth: Ints, groups: Sequence[str], classes: int) -> Floats:
    """Confusion counts of each group, (G, K, K), rows = truth."""
    members = _members(groups)
    counts = np.zeros((members.max() + 1, classes, classes))
    np.add.at(counts, (members, truth, predicted), 1.0)
    return counts


def _members(groups: Sequence[str]) -> Ints:
    number: Ints = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    return number


def _weights(groups: Sequence[str], draws: int, seed: int) -> Floats:
    """How often each group is drawn, (draws, G): G groups with replacement; none from one, which has no spread."""
    number = len(set(groups))
    draws = draws if number > 1 else 0
    weights: Floats = (
        generator(seed, "bootstrap groups").multinomial(number, np.full(number, 1 / number), draws).astype(float)
    )
    return weights


def _score(of: Callable[[Floats], Floats], counts: Floats, weights: Floats) -> Score:
    """A score of summed counts, and its percentiles over draws of groups."""
    return Score(float(of(counts.sum(axis=0))), *_percentiles(of(np.tensordot(weights, counts, axes=1))))
