"""Curves of a pre-training run, and of runs that continue it: loss terms, probes, feature rank over images seen.

python tests/benchmarks/run_curves.py runs/pretrain_corpus runs/longer --out docs/figures/pretrain_corpus.svg
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from usfm.train.journal import read_journal

SMOOTH = 16


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Thousands of images and values, where the rows have them."""
    found = [(row["samples"] / 1000, row[name]) for row in rows if name in row]
    return [x for x, _ in found], [y for _, y in found]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    mpl.use("Agg")
    rows = [row for run in args.runs for row in read_journal(run)]
    probes = sorted(
        {n for row in rows for n in row if n.startswith("probe/") and not n.endswith(("_low", "_high"))}
    )
    shown = [n for n in probes if n.endswith(("linear_balanced_accuracy", "linear_dice"))]
    figure, (losses, rate, scores, rank) = plt.subplots(1, 4, figsize=(13, 2.9), constrained_layout=True)
    for name in ("spatial", "frequency"):
        x, y = series(rows, name)
        losses.plot(x[SMOOTH - 1 :], np.convolve(y, np.ones(SMOOTH) / SMOOTH, mode="valid"), label=name, lw=1)
    losses.set(title="loss terms", yscale="log")
    rate.plot(*series(rows, "lr"), lw=1)
    rate.set(title="learning rate")
    for name in shown:
        scores.plot(
            *series(rows, name), marker="o", ms=3, lw=1, label=name.removeprefix("probe/").replace("_", " ")
        )
    scores.set(title="online probe")
    rank.plot(*series(rows, "rank/rankme"), marker="o", ms=3, lw=1)
    rank.set(title="feature rank (RankMe)")
    for axis in (losses, rate, scores, rank):
        axis.set_xlabel("thousand images")
        axis.spines[["top", "right"]].set_visible(False)
    losses.legend(frameon=False)
    scores.legend(frameon=False, fontsize=7)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
