"""The charts of a data card: rows by split, grey levels and spectra of an organ. Style: `usfm.report.figures`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from usfm.report.figures import INK, MUTED, SERIES, STYLE, chart_axes, inline_svg

__all__ = ["grey_chart", "organ_chart", "spectrum_chart"]

SMALL_IN = (3.1, 1.75)
STEP = 4  # grey levels drawn together


def organ_chart(organs: Mapping[str, Mapping[str, Any]], splits: Sequence[str]) -> Markup:
    """Stacked bars of the rows of each split, the largest organ first."""
    ordered = sorted(organs, key=lambda organ: (-organs[organ]["rows"], organ))
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(5.0, 0.8 + 0.24 * len(ordered))
        left = np.zeros(len(ordered))
        for number, split in enumerate(splits):
            rows = np.array([organs[organ]["splits"][split] for organ in ordered])
            axes.barh(ordered, rows, 0.66, left=left, color=SERIES[(0, 4, 2)[number % 3]], label=split)
            left += rows
        for at, total in enumerate(left):
            axes.text(
                total, at, f" {total:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}"), va="center", fontsize=8
            )
        axes.set(xlabel="stored images", ylim=(len(ordered) - 0.4, -0.6))
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower right")
        return inline_svg(axes, "images by organ and split")


def grey_chart(organ: str, pixels: Mapping[str, Any]) -> Markup:
    """Share of the pixels over grey level; bars that the axis cuts are written down (black is often most)."""
    shares = 100 * np.array(pixels["histogram"]).reshape(-1, STEP).sum(axis=1)
    top = max(1.25 * float(np.sort(shares)[-4]), 1.0)  # a few black or white bars must not flatten all others
    edges = np.arange(0, 257, STEP)
    cut = [f"{edges[at]}–{edges[at + 1] - 1}: {shares[at]:.0f} %" for at in np.flatnonzero(shares > top)]
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(*SMALL_IN)
        axes.stairs(np.minimum(shares, top), edges, fill=True, color=SERIES[0])
        axes.text(0.98, 0.94, "\n".join(cut), fontsize=8, va="top", ha="right", transform=axes.transAxes)
        axes.set(title="Grey levels", xlabel="grey level", ylabel="pixels, %", xlim=(0, 256), ylim=(0, top))
        axes.set_xticks([0, 64, 128, 192, 255])
        return inline_svg(axes, f"grey levels of {organ}")


def spectrum_chart(
    organ: str, pixels: Mapping[str, Any], reference: npt.NDArray[np.float64], radii: Sequence[int],
    limits: tuple[float, float],
) -> Markup:  # fmt: skip
    """Power over radial frequency: mean and spread of the organ's images, and the mean of all organs.

    Args:
        organ: its name.
        pixels: `organs[name].pixels` of the document.
        reference: (112,) mean over organs of `power_db`.
        radii: bounds of the frequency bands, drawn as lines.
        limits: of the power axis, the same for all organs.
    """
    cycles = np.arange(1, len(reference) + 1)
    with matplotlib.rc_context(STYLE):
        axes = chart_axes(*SMALL_IN)
        for radius in radii:
            axes.axvline(radius, color=MUTED, linewidth=0.7, linestyle=(0, (3, 2)))
        axes.fill_between(
            cycles, pixels["power_low_db"], pixels["power_high_db"], color=SERIES[0], alpha=0.18, linewidth=0
        )
        axes.plot(cycles, reference, color=INK, linewidth=0.9, alpha=0.7)
        axes.plot(cycles, pixels["power_db"], color=SERIES[0], linewidth=1.6)
        axes.set_xscale("log", base=2)
        axes.set(title="Spectrum", xlabel="cycles per image", ylabel="power, dB", xlim=(1, cycles[-1]), ylim=limits)
        axes.set_xticks([1, 4, 16, 45, 112], ["1", "4", "16", "45", "112"])
        axes.minorticks_off()
        return inline_svg(axes, f"spectrum of {organ}")
