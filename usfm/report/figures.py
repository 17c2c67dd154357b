"""The charts of a report, from the same values as the tables beside them (`usfm.report.numbers`).

Charts are SVG for inlining: every colour is a CSS variable of the page (so dark mode reaches into them) and
their text is text. Colours: Okabe and Ito's, which stay apart for colour-blind eyes.
"""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from usfm.report.numbers import OrganShare, Point, running_mean

__all__ = [
    "CARD",
    "INK",
    "LINE",
    "MUTED",
    "SERIES",
    "STYLE",
    "chart_axes",
    "css_colour",
    "curve",
    "inline_svg",
    "label_curve",
    "organ_bars",
    "organ_mix_chart",
]

INK, LINE, MUTED, CARD = "#101112", "#d1d2d3", "#8a8b8c", "#fcfdfe"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {INK: "--ink", LINE: "--line", MUTED: "--muted", CARD: "--card"} | {
    c: f"--c{n}" for n, c in enumerate(SERIES)
}
LEAST_SPAN = 0.2  # of the score axis; scores lie in [0, 1]
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9.0, "text.parse_math": False,  # names come from files
    "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.titlesize": 9.5, "axes.titlecolor": INK,
    "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.5, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "legend.fontsize": 8.5,
}  # fmt: skip


def curve(
    journal: Sequence[Mapping[str, Any]], name: str, title: str, unit: str, window: int, floor: bool = False
) -> Markup:
    """One metric over the steps: every step pale, the running mean strong; `floor` starts the axis at zero."""
    steps, values = [row["step"] for row in journal], [row[name] for row in journal]
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(3.5, 2.1)
        marker = "." if len(steps) < 3 else ""
        axes.plot(steps, values, color=SERIES[0], alpha=0.35, linewidth=0.8, marker=marker)
        axes.plot(steps, running_mean(values, window), color=SERIES[0], linewidth=1.6)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if floor:
            axes.set_ylim(bottom=0)
        return inline_svg(axes, f"{title} ({name})")


def organ_mix_chart(mix: Sequence[OrganShare]) -> Markup:
    """Bars of natural and achieved share, a tick at the planned one."""
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.0, 0.7 + 0.3 * len(mix))
        at = np.arange(len(mix))
        axes.barh(at - 0.2, [100 * m.natural for m in mix], 0.36, color=MUTED, alpha=0.55, label="natural")
        axes.barh(at + 0.2, [100 * m.achieved for m in mix], 0.36, color=SERIES[0], label="achieved")
        planned = [100 * m.planned for m in mix]
        axes.vlines(planned, at - 0.02, at + 0.42, color=SERIES[1], linewidth=2, label="planned")
        axes.set_yticks(at, [m.organ for m in mix])
        axes.set(xlabel="share of samples, %", ylim=(len(mix) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        return inline_svg(axes, "natural, planned and achieved share of each organ")


def organ_bars(losses: Mapping[str, float], unit: str) -> Markup:
    """One bar per organ, the largest first."""
    ordered = sorted(losses.items(), key=lambda item: -item[1])
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.0, 0.7 + 0.24 * len(ordered))
        axes.barh([organ for organ, _ in ordered], [loss for _, loss in ordered], 0.62, color=SERIES[0])
        axes.bar_label(axes.containers[0], fmt="%.3f", padding=3, fontsize=8)  # type: ignore[arg-type]
        axes.set(xlabel=unit, ylim=(len(ordered) - 0.4, -0.6))
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        return inline_svg(axes, "loss by organ")


def label_curve(points: Sequence[Point], inits: Sequence[str]) -> Markup:
    """Score over label fraction: mean as a line, every seed as a dot, least to largest as a band."""
    fractions = sorted({point.fraction for point in points})
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(4.6, 3.0)
        for number, init in enumerate(inits):
            mine = [point for point in points if point.init == init]
            if not mine:
                continue
            at = [fractions.index(point.fraction) + 0.05 * (number - (len(inits) - 1) / 2) for point in mine]
            colour, least, most = SERIES[number % len(SERIES)], map(_least, mine), map(_most, mine)
            axes.fill_between(at, list(least), list(most), color=colour, alpha=0.15, linewidth=0)
            axes.plot(at, [point.mean for point in mine], color=colour, linewidth=1.6, label=init)
            dots = [(x, value) for x, point in zip(at, mine, strict=True) for value in point.values]
            axes.plot(*zip(*dots, strict=True), color=colour, marker="o", markersize=3.5, linestyle="", alpha=0.75)
        axes.set_xticks(range(len(fractions)), [f"{100 * fraction:g} %" for fraction in fractions])
        axes.set(xlabel="share of the training labels (categories)", ylabel=_readable(points[0].metric) + " (test)")
        axes.margins(x=0.08)
        low, high = axes.get_ylim()
        spare = max(0.0, LEAST_SPAN - (high - low)) / 2
        axes.set_ylim(low - spare, high + spare)  # else noise of a few thousandths fills the chart
        axes.legend(loc="best")
        return inline_svg(axes, f"score over the share of the labels, {points[0].task}")


def _least(point: Point) -> float:
    return min(point.values)


def _most(point: Point) -> float:
    return max(point.values)


def _readable(metric: str) -> str:
    text = metric.replace("_", " ")
    return text[:1].upper() + text[1:]


def chart_axes(width_in: float, height_in: float) -> Axes:
    """Empty axes of a figure of that size."""
    axes: Axes = Figure(figsize=(width_in, height_in), layout="constrained").add_subplot()
    return axes


def css_colour(colour: str) -> str:
    """The page's variable for a colour of a chart, so that text beside a chart has its colours."""
    return f"var({_VARIABLES[colour]})"


def inline_svg(axes: Axes, name: str) -> Markup:
    """Inline SVG without ids that could clash, with the page's colours and font.

    Args:
        axes: of the figure.
        name: what it shows, for those who do not see it; other than that of any other chart of the page.
    """
    stream = StringIO()
    assert isinstance(axes.figure, Figure)
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that are referred to differ between charts
        axes.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height|version)="[^"]*"', "", head)  # the page decides the size
    return Markup(
        f'{head} role="img" aria-label="{escape(name)}">{rest}'
    )  # matplotlib has escaped the text that it wrote
