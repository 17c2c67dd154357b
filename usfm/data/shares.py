"""Who is drawn how often: shares of the stream by organ, and within an organ by source or device."""

import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from usfm.config import Config
from usfm.errors import ConfigError

__all__ = ["SamplingConfig", "organ_shares", "stratum_shares"]


class SamplingConfig(Config):
    """Who is drawn, and how often.

    Attributes:
        alpha: share of an organ ~ rows ** alpha; 0 = balanced (default), 1 = natural. Unknown in the paper.
        weights: fixed shares of the stream by organ, in (0, 1]; the other organs share the rest by alpha.
        max_share: upper bounds of shares by organ; what is cut off goes to the others in proportion.
        max_oversampling: no organ is drawn more than so many times as often as its rows alone would be (share <=
            max_oversampling x rows / all rows), so that a tiny organ is not learnt by heart; None = no bound.
        within: what is balanced inside an organ: "rows" = nothing, every row alike; "source" or "device".
        within_alpha: share of a source or device inside its organ ~ rows ** within_alpha.
        organs: organs to draw from; None = all that have rows in the split.
        exclude_organs: organs that are left out (phantoms are no patients).
        chunk_size: samples per chunk, the unit in which the mix is exact.
    """

    alpha: float = Field(default=0.0, ge=0.0, le=1.0)
    weights: dict[str, float] = {}
    max_share: dict[str, float] = {}
    max_oversampling: float | None = Field(default=None, ge=1.0)
    within: Literal["rows", "source", "device"] = "rows"
    within_alpha: float = Field(default=0.0, ge=0.0, le=1.0)
    organs: list[str] | None = None
    exclude_organs: list[str] = ["phantom"]
    chunk_size: int = Field(default=1024, ge=1)

    @model_validator(mode="after")
    def _shares_are_shares(self) -> Self:
        for field in ("weights", "max_share"):
            for organ, share in getattr(self, field).items():
                if not 0 < share <= 1:
                    raise ValueError(f"{field}.{organ} is {share}; expected a share above 0 and at most 1")
        if sum(self.weights.values()) > 1 + 1e-9:
            raise ValueError(f"weights sum to {sum(self.weights.values()):g}; they are shares of one stream")
        return self


def organ_shares(rows: Mapping[str, int], config: SamplingConfig) -> dict[str, float]:
    """Shares of the organs; they sum to one.

    p_o ~ n_o ** alpha for the organs without a fixed weight; then shares above their bound are cut to it and the
    excess is spread over the others in proportion, until none is above.

    Args:
        rows: rows n_o of each organ.
        config: alpha, weights and bounds.

    Raises:
        ConfigError: no organ, an organ without rows, an organ that is not there, or bounds that cannot be met.
    """
    if not rows or min(rows.values()) < 1:
        raise ConfigError(f"sampling needs organs that have rows, got {dict(rows)}")
    for field in ("weights", "max_share"):
        unknown = sorted(set(getattr(config, field)) - set(rows))
        if unknown:
            raise ConfigError(
                f"sampling.{field} names {', '.join(unknown)}; the split has {', '.join(sorted(rows))}"
            )
    total = sum(rows.values())
    bound = {
        o: min(config.max_share.get(o, 1.0), (config.max_oversampling or math.inf) * n / total)
        for o, n in rows.items()
    }
    shares = dict(config.weights)
    free = {o: float(n) ** config.alpha for o, n in rows.items() if o not in shares}
    above = sorted(o for o, share in shares.items() if share > bound[o] + 1e-12)
    if above:
        raise ConfigError(f"sampling.weights are above max_share or max_oversampling for {', '.join(above)}")
    rest = 1.0 - sum(shares.values())
    if not free and rest > 1e-9:
        raise ConfigError(f"sampling.weights name every organ but sum to {1 - rest:g}; expected 1")
    if sum(bound[o] for o in free) < rest - 1e-9:
        raise ConfigError(
            f"the bounds of max_share and max_oversampling allow {sum(bound[o] for o in free):.3f} of the stream "
            f"for {', '.join(sorted(free))}, {rest:.3f} has to be filled; raise them"
        )
    shares |= _filled(free, bound, rest)
    if min(shares.values()) <= 0:
        raise ConfigError("sampling.weights leave nothing for the other organs; exclude them, or lower the weights")
    norm = sum(shares.values())  # one, but for rounding
    return {organ: shares[organ] / norm for organ in rows}


def stratum_shares(rows: Mapping[tuple[str, str], int], config: SamplingConfig) -> dict[tuple[str, str], float]:
    """Shares of (organ, source or device) strata, in name order, so that an organ's strata stand together."""
    by_organ: dict[str, int] = {}
    for (organ, _), n in rows.items():
        by_organ[organ] = by_organ.get(organ, 0) + n
    organs = organ_shares(by_organ, config)
    weight = {key: float(n) ** config.within_alpha for key, n in rows.items()}
    of_organ: dict[str, float] = {}
    for (organ, _), w in weight.items():
        of_organ[organ] = of_organ.get(organ, 0.0) + w
    return {key: organs[key[0]] * weight[key] / of_organ[key[0]] for key in sorted(rows)}


def _filled(weight: Mapping[str, float], bound: Mapping[str, float], total: float) -> dict[str, float]:
    """`total` spread in proportion to `weight`, nobody above the bound (water filling)."""
    shares: dict[str, float] = {}
    open_ = dict(weight)
    while open_:
        unit = (total - sum(shares.values())) / sum(open_.values())
        full = [o for o, w in open_.items() if w * unit > bound[o]]
        for o in full:
            shares[o] = bound[o]
            del open_[o]
        if not full:
            shares |= {o: w * unit for o, w in open_.items()}
            break
    return shares
