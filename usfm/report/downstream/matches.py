"""What a score was worth in labels: the share of them that gives an initialisation the base's score with all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from usfm.metrics.compare import fraction_to_match
from usfm.metrics.item_scores import HIGHER_IS_BETTER
from usfm.report.downstream.points import Difference, Point

__all__ = ["LEAST_SEEDS", "Match", "matches"]

LEAST_SEEDS = 2
"""That a difference needs to count for a match, if the sweep has so many: one run says nothing of others."""


@dataclass(frozen=True)
class Match:
    """The share of the labels that gives an initialisation the score of another one with all labels.

    It is read off the paired differences to that score (`points.differences_to_all`), each over the seeds that both
    have, so that a run which failed on one side moves nothing; off those of `LEAST_SEEDS`, if there are two.

    Attributes:
        task: name.
        init: initialisation.
        base: the other one.
        target: its score with all labels, mean over all its seeds.
        fraction: where the differences first reach zero above `worse_at`, interpolated between tried fractions;
            None = none of them above it does. Where there is a `better_at` it is no larger.
        least: the smallest fraction that it is read off; a match there may lie lower still.
        worse_at: the largest tried fraction at which it is still worse than the base with all labels (the whole
            interval, of `LEAST_SEEDS`); None = at none.
        better_at: the smallest tried fraction above that at which it is better; None = at none. Without either of
            them nothing is decided.
        fewest_seeds: pairs of runs of the difference that has the fewest, of those that it is read off.
        most_seeds: of the one that has the most.
    """

    task: str
    init: str
    base: str
    target: float
    fraction: float | None
    least: float
    worse_at: float | None = None
    better_at: float | None = None
    fewest_seeds: int = 1
    most_seeds: int = 1

    def row(self) -> dict[str, Any]:
        """One line of matches.csv."""
        return asdict(self)


def matches(found: Sequence[Point], to_all: Sequence[Difference], base: str | None, seeds: int) -> list[Match]:
    """The match of every initialisation that was compared with the base with all labels at several fractions.

    Args:
        found: points of one task.
        to_all: its paired differences to the base with all labels (`points.differences_to_all`).
        base: initialisation; without a point of it with all labels there are no matches.
        seeds: of the sweep that have a score, see `LEAST_SEEDS`.
    """
    whole = [point for point in found if point.init == base and point.fraction == 1.0]
    made = []
    for init in dict.fromkeys(point.init for point in found if point.init != base) if whole else ():
        compared = {of.fraction: of for of in to_all if (of.init, of.base) == (init, base) and of.comparison.seeds}
        if len(compared) < 2:  # a point is no curve
            continue
        firm = {at: of for at, of in compared.items() if of.comparison.seeds >= min(LEAST_SEEDS, seeds)}
        verdict = {at: of.verdict for at, of in firm.items()}
        read = firm if len(firm) > 1 else compared
        paired = [of.comparison.seeds for of in read.values()]
        worse_at = max((at for at, said in verdict.items() if said == "worse"), default=None)
        better = (at for at, said in verdict.items() if said == "better" and at > (worse_at or 0.0))
        curve = {at: of.score.value for at, of in read.items() if at >= (worse_at or 0.0)}
        fraction = fraction_to_match(curve, 0.0, HIGHER_IS_BETTER[whole[0].metric])
        made.append(Match(
            whole[0].task, init, whole[0].init, whole[0].score.value, fraction, min(read), worse_at,
            min(better, default=None), min(paired), max(paired),
        ))  # fmt: skip
    return made
