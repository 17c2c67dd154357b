"""What a score was worth in labels: the share of them that gives an initialisation the base's score with all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from usfm.metrics.compare import fraction_to_match
from usfm.metrics.item_scores import HIGHER_IS_BETTER
from usfm.report.downstream.points import Difference, Point

__all__ = ["Match", "matches"]


@dataclass(frozen=True)
class Match:
    """The share of the labels that gives an initialisation the score of another one with all labels.

    Attributes:
        task: name.
        init: initialisation.
        base: the other one.
        target: its score with all labels.
        fraction: interpolated between the points of the curve of means, which has no interval of its own; None = no
            point of it reaches the score.
        least: the smallest fraction that was tried; a match there may lie lower still.
        decided: whether the paired difference to the base bears it out: better at the smallest compared fraction
            that is not below the match; where no point reaches the score, worse at the largest. Else the curves may
            cross by chance.
    """

    task: str
    init: str
    base: str
    target: float
    fraction: float | None
    least: float
    decided: bool

    def row(self) -> dict[str, Any]:
        """One line of matches.csv."""
        return asdict(self)


def matches(found: Sequence[Point], compared: Sequence[Difference], base: str | None) -> list[Match]:
    """For every initialisation, the fraction at which it equals the base with all labels.

    Args:
        found: points of one task.
        compared: its paired differences.
        base: initialisation; without a point of it with all labels there are no matches.
    """
    whole = [point for point in found if point.init == base and point.fraction == 1.0]
    made = []
    for init in dict.fromkeys(point.init for point in found if point.init != base) if whole else ():
        curve = {point.fraction: point.score.value for point in found if point.init == init}
        target, task = whole[0].score.value, whole[0].task
        fraction = fraction_to_match(curve, target, HIGHER_IS_BETTER[whole[0].metric])
        verdicts = {of.fraction: of.verdict for of in compared if (of.init, of.base) == (init, base)}
        decided = _decided(verdicts, fraction)
        made.append(Match(task, init, whole[0].init, target, fraction, min(curve), decided))
    return made


def _decided(verdicts: Mapping[float, str], fraction: float | None) -> bool:
    """See `Match.decided`; `verdicts` by compared fraction."""
    if fraction is None:
        return bool(verdicts) and verdicts[max(verdicts)] == "worse"
    above = [at for at in verdicts if at >= fraction * (1 - 1e-9)]  # it was the exponential of a logarithm
    return bool(above) and verdicts[min(above)] == "better"
