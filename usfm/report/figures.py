"""The numbers of a report and their charts: a chart and the table beside it come from the same values.

Charts are SVG for inlining: every colour is a CSS variable of the page (so dark mode reaches into them) and
their text is text. Colours: Okabe and Ito's, which stay apart for colour-blind eyes.
"""

import csv
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = [
    "OrganShare",
    "Point",
    "Training",
    "Trial",
    "curve",
    "label_curve",
    "label_efficiency",
    "organ_bars",
    "organ_mix",
    "organ_mix_chart",
    "paired_difference",
    "read_trials",
    "row_percentages",
    "running_mean",
    "training_summary",
]

Row = Mapping[str, Any]

INK, LINE, MUTED = "#101112", "#d1d2d3", "#8a8b8c"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {INK: "--ink", LINE: "--line", MUTED: "--muted"} | {c: f"--c{n}" for n, c in enumerate(SERIES)}
LEAST_SPAN = 0.2  # of the score axis; scores lie in [0, 1]
STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9.0, "text.parse_math": False,  # names come from files
    "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.titlesize": 9.5, "axes.titlecolor": INK,
    "axes.titlelocation": "left", "axes.grid": True, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.5, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "legend.fontsize": 8.5,
}  # fmt: skip


@dataclass(frozen=True)
class OrganShare:
    """One organ of the mix; shares are in [0, 1], `repeats` is samples drawn per stored row."""

    organ: str
    rows: int
    natural: float
    planned: float
    drawn: int
    achieved: float
    repeats: float


def organ_mix(rows: Mapping[str, int], planned: Mapping[str, float], journal: Iterable[Row]) -> list[OrganShare]:
    """Natural, planned and achieved share of each organ.

    Args:
        rows: stored rows by organ in the split that was drawn from.
        planned: shares of the sample plan.
        journal: rows of metrics.jsonl; their `organ_count` are added up.
    """
    drawn = dict.fromkeys(rows, 0)
    for row in journal:
        for organ, count in row["organ_count"].items():
            drawn[organ] = drawn.get(organ, 0) + count
    stored, total = sum(rows.values()), sum(drawn.values())
    return [
        OrganShare(
            organ, rows.get(organ, 0), rows.get(organ, 0) / stored, planned.get(organ, 0.0), count,
            count / total if total else 0.0, count / rows[organ] if rows.get(organ) else math.nan,
        )
        for organ, count in drawn.items()
    ]  # fmt: skip


@dataclass(frozen=True)
class Training:
    """A run in numbers.

    Attributes:
        steps: optimizer steps.
        images: samples drawn, repeats included.
        seconds: sum of the times of all steps, without start-up and checkpoints.
        window: steps of the running mean in the charts.
        terms: (name, first step, mean of the last quarter, last step) of the losses and the gradient norm.
        rate: images per second, (median over steps, mean over the run).
        wait: share of a step spent waiting for data, (median over steps, mean over the time of the run).
        organ_loss: mean spatial loss of the last quarter by organ, weighted by samples.
    """

    steps: int
    images: int
    seconds: float
    window: int
    terms: list[tuple[str, float, float, float]]
    rate: tuple[float, float]
    wait: tuple[float, float]
    organ_loss: dict[str, float]


def training_summary(journal: Sequence[Row]) -> Training:
    """Numbers of a run from its metrics; `journal` is not empty."""
    samples = np.diff([0, *(row["samples"] for row in journal)])
    seconds = samples / np.array([row["images_per_s"] for row in journal])
    waits = np.array([row["data_wait"] for row in journal])
    late = journal[len(journal) - max(1, len(journal) // 4) :]
    terms = [
        (name, journal[0][name], statistics.fmean(row[name] for row in late), journal[-1][name])
        for name in ("loss", "spatial", "frequency", "grad_norm")
    ]
    sums: dict[str, list[float]] = {}
    for row in late:
        for organ, loss in row["organ_loss"].items():
            total = sums.setdefault(organ, [0.0, 0.0])
            total[0] += loss * row["organ_count"][organ]
            total[1] += row["organ_count"][organ]
    return Training(
        steps=len(journal), images=int(samples.sum()), seconds=float(seconds.sum()),
        window=max(1, len(journal) // 20), terms=terms,
        rate=(float(np.median(samples / seconds)), float(samples.sum() / seconds.sum())),
        wait=(float(np.median(waits)), float((waits * seconds).sum() / seconds.sum())),
        organ_loss={organ: loss / count for organ, (loss, count) in sorted(sums.items())},
    )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One row of a sweep's results.csv; `value` is on the test set, NaN where the trial failed."""

    task: str
    kind: str
    init: str
    fraction: float
    seed: int
    train_items: int
    train_groups: int
    metric: str
    value: float
    status: str


def read_trials(path: Path) -> list[Trial]:
    """The rows of results.csv; columns that a failed trial left empty are NaN or 0."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Trial(
                row["task"], row["kind"], row["init"], float(row["fraction"]), int(row["seed"]),
                int(float(row["train_items"] or 0)), int(float(row["train_groups"] or 0)), row["metric"],
                float(row["value"] or math.nan), row["status"],
            )
            for row in csv.DictReader(stream)
        ]  # fmt: skip


@dataclass(frozen=True)
class Point:
    """Trials of one task that differ only in the seed: their test values, in the order of `seeds`."""

    task: str
    metric: str
    init: str
    fraction: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    items: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation (n - 1) over seeds; None for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def label_efficiency(trials: Iterable[Trial]) -> dict[str, list[Point]]:
    """Points by task, in the order of init and fraction; trials that failed are left out."""
    cells: dict[tuple[str, str, str, float], list[Trial]] = {}
    for trial in trials:
        if trial.status == "ok":
            cells.setdefault((trial.task, trial.metric, trial.init, trial.fraction), []).append(trial)
    points: dict[str, list[Point]] = {}
    for key in sorted(cells):
        of_seed = sorted(cells[key], key=lambda t: t.seed)
        columns = zip(*((t.seed, t.value, t.train_items, t.train_groups) for t in of_seed), strict=True)
        points.setdefault(key[0], []).append(Point(*key, *columns))
    return points


def paired_difference(points: Sequence[Point], init: str, base: str) -> dict[float, tuple[float, ...]]:
    """By label fraction, value of `init` minus value of `base` for each seed that has both."""
    of: dict[str, dict[float, dict[int, float]]] = {init: {}, base: {}}
    for point in points:
        if point.init in of:
            of[point.init][point.fraction] = dict(zip(point.seeds, point.values, strict=True))
    pairs = {
        fraction: tuple(values[seed] - of[base].get(fraction, {})[seed]
                        for seed in sorted(values) if seed in of[base].get(fraction, {}))
        for fraction, values in sorted(of[init].items())
    }  # fmt: skip
    return {fraction: pair for fraction, pair in pairs.items() if pair}


def row_percentages(confusion: Sequence[Sequence[int]]) -> list[list[float]]:
    """Counts (K, K) with truth in rows as percent of each row; an empty row is all zero."""
    return [[100 * n / sum(row) if sum(row) else 0.0 for n in row] for row in confusion]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values at each place, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    means: list[float] = ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
    return means


def curve(journal: Sequence[Row], name: str, title: str, unit: str, window: int, floor: bool = False) -> Markup:
    """One metric over the steps: every step pale, the running mean strong; `floor` starts the axis at zero."""
    steps, values = [row["step"] for row in journal], [row[name] for row in journal]
    with matplotlib.rc_context(STYLE):
        axes = _axes(3.5, 2.1)
        marker = "." if len(steps) < 3 else ""
        axes.plot(steps, values, color=SERIES[0], alpha=0.35, linewidth=0.8, marker=marker)
        axes.plot(steps, running_mean(values, window), color=SERIES[0], linewidth=1.6)
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if floor:
            axes.set_ylim(bottom=0)
        return _svg(axes, name)


def organ_mix_chart(mix: Sequence[OrganShare]) -> Markup:
    """Bars of natural and achieved share, a tick at the planned one."""
    with matplotlib.rc_context(STYLE):
        axes = _axes(5.0, 0.7 + 0.3 * len(mix))
        at = np.arange(len(mix))
        axes.barh(at - 0.2, [100 * m.natural for m in mix], 0.36, color=MUTED, alpha=0.55, label="natural")
        axes.barh(at + 0.2, [100 * m.achieved for m in mix], 0.36, color=SERIES[0], label="achieved")
        planned = [100 * m.planned for m in mix]
        axes.vlines(planned, at - 0.02, at + 0.42, color=SERIES[1], linewidth=2, label="planned")
        axes.set_yticks(at, [m.organ for m in mix])
        axes.set(xlabel="share of samples, %", ylim=(len(mix) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        return _svg(axes, "mix")


def organ_bars(losses: Mapping[str, float], unit: str) -> Markup:
    """One bar per organ, the largest first."""
    ordered = sorted(losses.items(), key=lambda item: -item[1])
    with matplotlib.rc_context(STYLE):
        axes = _axes(5.0, 0.7 + 0.24 * len(ordered))
        axes.barh([organ for organ, _ in ordered], [loss for _, loss in ordered], 0.62, color=SERIES[0])
        axes.bar_label(axes.containers[0], fmt="%.3f", padding=3, fontsize=8)  # type: ignore[arg-type]
        axes.set(xlabel=unit, ylim=(len(ordered) - 0.4, -0.6))
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        return _svg(axes, "organs")


def label_curve(points: Sequence[Point], inits: Sequence[str]) -> Markup:
    """Score over label fraction: mean as a line, every seed as a dot, least to largest as a band."""
    fractions = sorted({point.fraction for point in points})
    with matplotlib.rc_context(STYLE):
        axes = _axes(4.6, 3.0)
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
        return _svg(axes, f"labels {points[0].task}")


def _least(point: Point) -> float:
    return min(point.values)


def _most(point: Point) -> float:
    return max(point.values)


def _readable(metric: str) -> str:
    text = metric.replace("_", " ")
    return text[:1].upper() + text[1:]


def _axes(width_in: float, height_in: float) -> Axes:
    axes: Axes = Figure(figsize=(width_in, height_in), layout="constrained").add_subplot()
    return axes


def _svg(axes: Axes, name: str) -> Markup:
    """Inline SVG without ids that could clash, with the page's colours and font."""
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
    return Markup(head + ">" + rest)  # matplotlib has escaped the text that it wrote
