"""One task of a finished sweep as a picture: the label-efficiency curves, and beside them the paired differences.

python tests/benchmarks/sweep_figure.py runs/label_efficiency --task fetal_head --out label_efficiency.svg
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from usfm.report.downstream.charts import curve_chart, difference_chart
from usfm.report.downstream.matches import matches
from usfm.report.downstream.points import differences, differences_to_all, points
from usfm.report.downstream.tables import read_sweep
from usfm.report.figures import CARD, INK, LINE, MUTED, SERIES, css_colour

FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
GAP = 12.0  # points between the charts and at both sides


def picture(charts: Sequence[str]) -> str:
    """Charts of a page (`usfm.report.figures.inline_svg`) side by side in a file of its own, on white."""
    colours = {css_colour(colour): colour for colour in (INK, LINE, MUTED, CARD, *SERIES)}
    width, height, parts = GAP, 0.0, []
    for chart in map(str, charts):  # markup would escape what it is joined with
        found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart)
        assert found is not None, "matplotlib writes one"
        wide, high = map(float, found.groups())
        parts.append(chart.replace("<svg", f'<svg x="{width:g}" width="{wide:g}" height="{high:g}"', 1))
        width, height = width + wide + GAP, max(height, high)
    body = re.sub(r"var\(--\w+\)", lambda found: colours[found[0]], "\n".join(parts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}pt" height="{height:g}pt" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="{FONT}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    tables = read_sweep(args.sweep)
    if args.task not in tables.tasks:
        parser.error(
            f"--task: {args.sweep} has scores of {', '.join(tables.tasks) or 'no task'}, not of {args.task}"
        )
    found, compared = points(tables, args.task), differences(tables, args.task)
    matched = matches(found, differences_to_all(tables, args.task), tables.base, tables.seeds)
    charts = [curve_chart(found, tables.inits, tables.base, matched[0] if matched else None)]
    if compared:  # a sweep of one initialisation has nothing to compare
        charts.append(difference_chart(compared, tables.inits, tables.base))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(picture(charts), encoding="utf-8")


if __name__ == "__main__":
    main()
