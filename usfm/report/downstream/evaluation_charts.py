"""The charts of one evaluation: how scores spread over images, how numbers agree. Style: `usfm.report.figures`."""

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from usfm.metrics.item_scores import Items, column
from usfm.report.downstream.words import readable
from usfm.report.figures import INK, MUTED, SERIES, STYLE, chart_axes, inline_svg

__all__ = ["agreement_chart", "change_chart", "spread_chart"]
EQUAL_DB = 99.9


def spread_chart(items: Items, metric: str) -> Markup:
    """Items ranked by score, the worst first: every one a dot, with the median."""
    values = np.sort(column(items, "value"))
    rank = 100 * (np.arange(len(values)) + 0.5) / len(values)
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.4, 3.4)
        axes.fill_between(rank, values, min(0.0, values[0]), color=SERIES[0], alpha=0.12, linewidth=0, step="mid")
        axes.plot(rank, values, color=SERIES[0], marker=".", markersize=4, linewidth=0)
        axes.axhline(float(np.median(values)), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(f"median {np.median(values):.3f}", (1, float(np.median(values))), (0, 4), fontsize=8.5,
                      textcoords="offset points")  # fmt: skip
        axes.set(xlabel="images, % (ranked)", ylabel=readable(metric), xlim=(0, 100))
        return inline_svg(axes, f"images ranked by {readable(metric)}")


def agreement_chart(items: Items, unit: str) -> Markup:
    """Answers over truth; their difference over truth with bias and 95 % limits of agreement (Bland, Altman)."""
    truth, predicted = column(items, "truth"), column(items, "predicted")
    error, in_unit = predicted - truth, f", {unit}" if unit else ""
    bias, spread = float(error.mean()), float(1.96 * error.std(ddof=1)) if len(error) > 1 else 0.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        ends = [float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))]
        left.plot(ends, ends, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        left.plot(truth, predicted, color=SERIES[0], marker=".", markersize=5, linewidth=0, alpha=0.8)
        left.set(xlabel=f"truth{in_unit}", ylabel=f"answer{in_unit}")
        right.axhline(0, color=MUTED, linewidth=0.8)
        for at, style in ((bias, "-"), (bias - spread, (0, (4, 3))), (bias + spread, (0, (4, 3)))):
            right.axhline(at, color=SERIES[1], linewidth=1.1, linestyle=style)
        right.plot(truth, error, color=SERIES[0], marker=".", markersize=5, linewidth=0, alpha=0.8)
        right.set(xlabel=f"truth{in_unit}", ylabel=f"answer − truth{in_unit}")
        return inline_svg(left, "answers over truth, and their difference over truth")


def change_chart(items: Items) -> Markup:
    """PSNR of the restored image over that of the input: above the dashed line an image was made better.

    Inputs that equal the clean image (100 dB) would flatten all others; they are counted in words.
    """
    before, after = column(items, "psnr_input"), column(items, "psnr")
    clean = before >= EQUAL_DB
    shown = ~clean if not clean.all() else clean
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.4, 3.6)
        ends = [float(np.minimum(before, after)[shown].min()), float(np.maximum(before, after)[shown].max())]
        axes.plot(ends, ends, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(before[shown], after[shown], color=SERIES[0], marker=".", markersize=5, linewidth=0, alpha=0.8)
        if clean.any():
            axes.set_title(f"not drawn: {int(clean.sum())} inputs that needed nothing")
        axes.set(xlabel="PSNR of the input, dB", ylabel="PSNR of the answer, dB")
        return inline_svg(axes, "PSNR of the answer over that of the input")
