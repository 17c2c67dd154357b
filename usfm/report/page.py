"""One self-contained HTML file that shows what a run did. What is missing is left out and named, never made up."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from usfm.errors import UsfmError
from usfm.report.inputs import ReportInputs, ServeSample, StageTime
from usfm.report.sections import SECTIONS, read_json

__all__ = ["ReportInputs", "ServeSample", "StageTime", "build_report"]


def build_report(inputs: ReportInputs, out: Path) -> Path:
    """Write the report; returns `out`.

    A section whose input is missing or damaged is left out, and the reason stands at the top of the page.
    """
    made: dict[str, Any] = dict.fromkeys(key for key, _, _ in SECTIONS)
    absent: list[tuple[str, str]] = []
    for key, title, build in SECTIONS:
        try:
            made[key] = build(inputs)
        except UsfmError as error:
            absent.append((title, str(error)))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"count": _count, "percent": _percent, "fixed": _fixed, "signed": _signed, "time": _time}
    page = environment.get_template("report.html").render(
        inputs=inputs,
        made=made,
        absent=absent,
        sections=[(key, title) for key, title, _ in SECTIONS if made[key]],
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        environment=read_json(inputs.pretrain_run / "environment.json"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _fixed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
