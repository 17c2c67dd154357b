"""One self-contained HTML file that shows what a run did. What is missing is left out and named, never made up."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from usfm.errors import UsfmError
from usfm.report.inputs import ReportInputs, ServeSample, StageTime
from usfm.report.sections import SECTIONS, read_json
from usfm.report.template import render

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
    page = render(
        "report.html",
        inputs=inputs,
        made=made,
        absent=absent,
        sections=[(key, title) for key, title, _ in SECTIONS if made[key]],
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        sweep_page=_sweep_page(inputs, out.parent),
        environment=read_json(inputs.pretrain_run / "environment.json"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _sweep_page(inputs: ReportInputs, folder: Path) -> str:
    """Address of the sweep's report as seen from a folder, "" where there is none."""
    page = inputs.sweep_dir / "report.html" if inputs.sweep_dir else None
    if page is None or not page.is_file():
        return ""
    return quote(Path(os.path.relpath(page.absolute(), folder.absolute())).as_posix())
