"""What a score was worth in labels: the share of them that gives an initialisation the base's score with all."""

from collections.abc import Sequence
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
        fraction: interpolated between the points of the curve of means; None = no point of it reaches the score.
        least: the smallest fraction that was tried; a match there may lie lower still.
        worse_at: the largest tried fraction at which it is still worse than the base with all labels (paired, the
            whole interval); None = at none.
        better_at: the smallest tried fraction above that at which it is better; None = at none. Where the curve
            rises, the match lies between the two; without either of them nothing is decided.
    """

    task: str
    init: str
    base: str
    target: float
    fraction: float | None
    least: float
    worse_at: float | None = None
    better_at: float | None = None

    def row(self) -> dict[str, Any]:
        """One line of matches.csv."""
        return asdict(self)


def matches(found: Sequence[Point], to_all: Sequence[Difference], base: str | None) -> list[Match]:
    """For every initialisation that was tried with several fractions, the one at which it equals the base with all.

    Args:
        found: points of one task.
        to_all: its paired differences to the base with all labels (`points.differences_to_all`).
        base: initialisation; without a point of it with all labels there are no matches.
    """
    whole = [point for point in found if point.init == base and point.fraction == 1.0]
    made = []
    for init in dict.fromkeys(point.init for point in found if point.init != base) if whole else ():
        curve = {point.fraction: point.score.value for point in found if point.init == init}
        if len(curve) < 2:  # a point is no curve
            continue
        target, task = whole[0].score.value, whole[0].task
        fraction = fraction_to_match(curve, target, HIGHER_IS_BETTER[whole[0].metric])
        verdict = {of.fraction: of.verdict for of in to_all if (of.init, of.base) == (init, base)}
        worse_at = max((at for at, said in verdict.items() if said == "worse"), default=None)
        better = (at for at, said in verdict.items() if said == "better" and at > (worse_at or 0.0))
        made.append(
            Match(task, init, whole[0].init, target, fraction, min(curve), worse_at, min(better, default=None))
        )
    return made
