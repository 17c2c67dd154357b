"""HTML pages from the templates beside this file, and how pages write numbers."""

import math
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["count", "digits", "duration", "fixed", "percent", "pvalue", "render", "score", "share", "signed"]


def render(name: str, **values: object) -> str:
    """A finished page; a value that the template misses is an error, text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": count, "percent": percent, "fixed": fixed, "signed": signed, "time": duration, "pvalue": pvalue,
        "score": score, "share": share, "digits": digits,
    }  # fmt: skip
    return environment.get_template(name).render(**values).lstrip()  # macros before the page leave blank lines


def count(value: float) -> str:
    """1234567 -> 1 234 567, with narrow spaces that do not break."""
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(share: float, digits: int = 1) -> str:
    """0.123 -> 12.3 %."""
    return f"{100 * share:.{digits}f} %"


def share(fraction: float) -> str:
    """A label fraction with the digits that it has: 0.125 -> 12.5 %, 0.2 -> 20 %, 0.0005 -> 0.05 %."""
    return f"{100 * fraction:.3g} %"


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many digits; a dash for None and NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """With its sign; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def digits(values: Sequence[float], least: int = 3) -> int:
    """Digits with which no value but zero itself reads as zero, which would hide its sign; at most 9."""
    small = [abs(value) for value in values if value and not math.isnan(value)]
    return next((n for n in range(least, 9) if all(value >= 0.5 * 10**-n for value in small)), 9)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def pvalue(value: float) -> str:
    """Three digits; what rounds to nothing is bounded, never zero."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def score(value: float | None, more: int = 0) -> str:
    """A score with digits that fit its size: 0.123, 12.34, 123.4; `more` digits than that."""
    size = 0.0 if value is None or math.isnan(value) else abs(value)
    return fixed(value, (3 if size < 10 else 2 if size < 100 else 1) + more).replace("-", "−")
