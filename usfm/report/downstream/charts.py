"""The charts of a sweep: label-efficiency curves, paired differences, reliability. Style: `usfm.report.figures`."""

from collections.abc import Mapping, Sequence
from typing import Literal

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from usfm.report.downstream.matches import Match
from usfm.report.downstream.points import Difference, Point
from usfm.report.downstream.words import bounded, reached, readable
from usfm.report.figures import CARD, INK, MUTED, SERIES, STYLE, chart_axes, inline_svg
from usfm.report.template import share

__all__ = [
    "LEAST_ANSWERS",
    "Claimed",
    "colours",
    "curve_chart",
    "difference_chart",
    "pair_looks",
    "reliability_chart",
]

Claimed = Literal["answers", "labels"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours, so that both together repeat late
LEGEND_WIDTH = 0.84  # of the figure's: about what lies right of the score axis
LEGEND_ROW_IN = 0.19
LEAST_ANSWERS = 5  # of a bin of the reliability diagram, to be drawn
LEAST_SPAN = 0.1  # of the score axis where scores lie in [0, 1]: noise of a few thousandths must not fill it
UNIT_INTERVAL = ("dice", "iou", "balanced_accuracy", "auroc", "macro_f1", "ssim")


def colours(inits: Sequence[str], base: str | None) -> dict[str, str]:
    """A colour for each initialisation, the same in all charts; the one from scratch is grey."""
    rest = [init for init in inits if init != base]
    return {init: SERIES[n % len(SERIES)] for n, init in enumerate(rest)} | ({base: MUTED} if base else {})


def curve_chart(
    points: Sequence[Point], inits: Sequence[str], base: str | None, match: Match | None = None
) -> Markup:
    """Score over label fraction: mean over seeds, its 95 % interval as a band, single seeds as small dots.

    Args:
        points: of one task.
        inits: names in the order of the legend.
        base: whose score with all labels is drawn across, dashed.
        match: the fraction at which an initialisation has that score; marked by a line down to the axis.
    """
    colour_of = colours(inits, base)
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.4, 3.6)
        for number, init in enumerate(inits):
            mine = [point for point in points if point.init == init]
            if not mine:
                continue
            at = np.array([point.fraction for point in mine])
            colour = colour_of[init]
            low, high = ([getattr(point.score, side) for point in mine] for side in ("low", "high"))
            axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
            mean = [point.score.value for point in mine]
            axes.plot(at, mean, color=colour, linewidth=1.7, marker=MARKERS[number % len(MARKERS)], markersize=4.5,
                      label=init, zorder=3)  # fmt: skip
            shifted = [point.fraction * 1.035 ** (number - (len(inits) - 1) / 2) for point in mine]
            dots = [(x, value) for x, point in zip(shifted, mine, strict=True) for value in point.values]
            axes.plot(*zip(*dots, strict=True), color=colour, marker=".", markersize=3.5, linestyle="", alpha=0.45)
        _fraction_axis(axes, sorted({point.fraction for point in points}))
        metric = points[0].metric
        axes.set_ylabel(f"{readable(metric)} (test)")
        low_end, high_end = axes.get_ylim()
        if metric in UNIT_INTERVAL:
            spare = max(0.0, LEAST_SPAN - (high_end - low_end)) / 2
            low_end, high_end = low_end - spare, min(high_end + spare, 1.0 + 0.02 * (high_end - low_end))
        axes.set_ylim(low_end, high_end)
        _draw_match(axes, points, base, match, colour_of)
        _legend(axes)
        return inline_svg(axes, f"{readable(metric)} over the share of the labels, {points[0].task}")


def _draw_match(
    axes: Axes, points: Sequence[Point], base: str | None, match: Match | None, colour_of: Mapping[str, str]
) -> None:
    whole = [point for point in points if point.init == base and point.fraction == 1.0]
    if not whole:
        return
    level, bottom = whole[0].score.value, axes.get_ylim()[0]
    axes.axhline(level, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    if match is not None and match.fraction is not None:
        axes.vlines(match.fraction, bottom, level, color=colour_of[match.init], linewidth=1.3,
                    linestyle=(0, (2, 2)), zorder=2)  # fmt: skip
        start, end = axes.get_xlim()
        left = match.fraction**2 < start * end  # of the logarithmic axis' middle; the words go where there is room
        bounds = bounded(match).replace("; ", ";\n")  # wider than the room they would squeeze the axes
        axes.annotate(
            f"{reached(match)} of labels = {base} with all\n({bounds})", (match.fraction, bottom),
            (6 if left else -6, 5), textcoords="offset points", fontsize=8, color=INK,
            ha="left" if left else "right",
        )  # fmt: skip


def difference_chart(found: Sequence[Difference], inits: Sequence[str], base: str | None) -> Markup:
    """Paired differences with their intervals over label fraction; hollow where the interval holds zero.

    A difference to `base` is a dot in the colour of the other one; one between two others a mark of another kind,
    in a colour that no initialisation has as long as there is one.
    """
    pairs = list(dict.fromkeys((d.init, d.base) for d in found))
    looks = pair_looks(pairs, colours(inits, base), base)
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.4, 3.6)
        axes.axhline(0, color=INK, linewidth=0.9)
        for number, pair in enumerate(pairs):
            mine = [d for d in found if (d.init, d.base) == pair]
            colour, marker = looks[pair]
            shift = 1.09 ** (number - (len(pairs) - 1) / 2)
            for d in mine:
                axes.vlines(d.fraction * shift, d.score.low, d.score.high, color=colour, linewidth=1.6, zorder=2)
            for hollow in (False, True):
                some = [d for d in mine if (d.verdict == "open") is hollow]
                axes.plot(
                    [d.fraction * shift for d in some], [d.score.value for d in some], color=colour, marker=marker,
                    markersize=5, linestyle="", markerfacecolor=CARD if hollow else colour,
                    markeredgecolor=colour, markeredgewidth=1.4, zorder=3,
                )  # fmt: skip
            axes.plot([], [], color=colour, marker=marker, markersize=5, linewidth=1.6, label=" − ".join(pair))
        _fraction_axis(axes, sorted({d.fraction for d in found}))
        axes.set_ylabel(f"difference of {readable(found[0].comparison.metric)}")
        _legend(axes)
        return inline_svg(
            axes,
            f"differences of {readable(found[0].comparison.metric)} over the share of the labels, {found[0].task}",
        )


def pair_looks(
    pairs: Sequence[tuple[str, str]], colour_of: Mapping[str, str], base: str | None
) -> dict[tuple[str, str], tuple[str, str]]:
    """Colour and marker of each pair that is compared; no two pairs have both in common.

    Args:
        pairs: (initialisation, what is subtracted).
        colour_of: each initialisation.
        base: see `colours`.
    """
    taken = set(colour_of.values())
    free = [c for c in SERIES if c not in taken] + [c for c in SERIES if c in taken]
    others = [pair for pair in pairs if pair[1] != base]
    looks = {pair: (free[n % len(free)], MARKERS[1 + n // len(free)]) for n, pair in enumerate(others)}
    first = [pair for pair in pairs if pair[1] == base]
    return looks | {pair: (colour_of[pair[0]], MARKERS[0]) for pair in first}


def reliability_chart(
    bins: Mapping[str, Sequence[Mapping[str, float]]], inits: Sequence[str], base: str | None, name: str,
    claimed: Claimed = "answers",
) -> Markup:  # fmt: skip
    """Share that is true over stated probability, and below it how often each probability was stated.

    A bin of fewer than `LEAST_ANSWERS` has no mark above: its share is chance.

    Args:
        bins: of each initialisation, as `usfm.metrics.classification.reliability` gives them.
        inits: names in the order of the colours.
        base: see `colours`.
        name: of the chart.
        claimed: what has a probability: answers of one class (right or not), or labels (there or not).
    """
    colour_of, true = colours(inits, base), {"answers": "right", "labels": "there"}[claimed]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for number, init in enumerate(inits):
            if init not in bins:
                continue
            mine, colour, marker = bins[init], colour_of[init], MARKERS[number % len(MARKERS)]
            shares = np.array([part["items"] for part in mine]) / sum(part["items"] for part in mine)
            enough = np.array([part["items"] >= LEAST_ANSWERS for part in mine])
            at, right = (np.array([part[of] for part in mine])[enough] for of in ("confidence", "right"))
            upper.plot(at, right, color=colour, linewidth=1.5)
            upper.scatter(at, right, 8 + 150 * shares[enough], color=colour, marker=marker, zorder=3, linewidths=0)
            upper.plot([], [], color=colour, linewidth=1.5, marker=marker, markersize=4.5, label=init)
            for part, share in zip(mine, 100 * shares, strict=True):
                lower.fill_between([part["low"], part["high"]], share, color=colour, alpha=0.18, linewidth=0)
                lower.hlines(share, part["low"], part["high"], color=colour, linewidth=1.6)
        start = min(part["low"] for mine in bins.values() for part in mine)
        upper.set(ylabel=f"share that is {true}", xlim=(start, 1.0), ylim=(0, 1.03))
        lower.set(xlabel=f"probability of the {claimed.removesuffix('s')}", ylabel=f"{claimed}, %")
        lower.set_ylim(bottom=0)
        _legend(upper)
        return inline_svg(upper, f"share that is {true} over stated probability, {name}")


def _legend(axes: Axes) -> None:
    """Above the axes, in as many columns as fit there: wider than the axes it would squeeze them."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    names = len(axes.get_legend_handles_labels()[0])
    for columns in range(min(4, names), 0, -1):
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2,
                             handlelength=1.7)  # fmt: skip
        if legend.get_window_extent().width <= LEGEND_WIDTH * figure.bbox.width:
            break
    rows = -(-names // columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_IN * (rows - 1))


def _fraction_axis(axes: Axes, fractions: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(fractions[0] / 1.25, fractions[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(list(fractions)))
    axes.xaxis.set_major_formatter(FixedFormatter([share(fraction) for fraction in fractions]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the training labels")
