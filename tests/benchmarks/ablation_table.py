"""Tables and figure of the ablation: scores by arm, paired differences with intervals over patients and seeds.

    python tests/benchmarks/ablation_table.py runs/ablation --out docs/figures

Reads what `ablation.py train` and `ablation.py probe` left. An interval joins two parts: patients are resampled
(frames of one patient are no independent witnesses), and the spread over seeds counts with Student's t (three runs
are no large sample of runs: its factor is 4.3 there).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from usfm.metrics.intervals import Score, class_scores_over_seeds, mean_score_over_seeds
from usfm.train.journal import read_journal

PAIRS = (("dual", "random"), ("dual", "spatial"), ("dual", "frequency"), ("dual", "natural"), ("teacher", "dual"))
DRAWS = 4000
COLOURS = {
    "dual": "#1f77b4",
    "spatial": "#ff7f0e",
    "frequency": "#2ca02c",
    "natural": "#9467bd",
    "teacher": "#d62728",
}


def arms_of(folder: Path) -> dict[str, list[Path]]:
    """Probe folders by arm, in order of seeds."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / "probes").iterdir()):
        found.setdefault(path.name.rpartition("-")[0], []).append(path)
    return found


def load(paths: Sequence[Path]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The items of each probe."""
    loaded = []
    for path in paths:
        with np.load(path / "predictions.npz") as stored:
            loaded.append(dict(stored))
    return loaded


def differences(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """First minus second for every task and score; run k of the one is paired with run k of the other."""
    made: dict[str, Score] = {}
    for key in first[0]:
        task, _, kind = key.partition("/")
        if kind not in ("knn", "linear", "linear_dice"):
            continue
        if any(list(a[f"{task}/id"]) != list(first[0][f"{task}/id"]) for a in (*first, *second)):
            raise SystemExit(
                f"task {task}: the probes scored other items; probe all with the same shards and tasks"
            )
        groups = [str(g) for g in first[0][f"{task}/group"]]
        a, b = [x[key] for x in first], [x[key] for x in second]
        if kind == "linear_dice":
            made[f"{task} linear Dice"] = mean_score_over_seeds(a, b, groups, DRAWS, 0)
        else:
            truth, classes = first[0][f"{task}/truth"], len(first[0][f"{task}/classes"])
            scores = class_scores_over_seeds(a, b, truth, groups, classes, DRAWS, 0)
            made[f"{task} {kind} balanced accuracy"] = scores["balanced_accuracy"]
    return made


def values(paths: Sequence[Path]) -> dict[str, list[float]]:
    """Scores of each seed by name, and the feature rank."""
    documents = [json.loads((path / "probe.json").read_text(encoding="utf-8")) for path in paths]
    made: dict[str, list[float]] = {"RankMe": [d["rank"]["rankme"] for d in documents]}
    for task, first in documents[0]["tasks"].items():
        for score in first["scores"]:
            if score.endswith("balanced_accuracy") or score == "linear_dice":
                name = f"{task} " + score.replace("linear_dice", "linear Dice").replace("_", " ")
                made[name] = [d["tasks"][task]["scores"][score]["value"] for d in documents]
    return made


def tables(folder: Path) -> str:
    """Both tables as Markdown."""
    arms = {arm: paths for arm, paths in arms_of(folder).items() if "@" not in arm}
    scores = {arm: values(paths) for arm, paths in arms.items()}
    order = [arm for arm in ("random", *COLOURS) if arm in arms]
    lines = [
        "| score | " + " | ".join(f"{arm} ({len(arms[arm])})" for arm in order) + " |",
        "|---" * (len(order) + 1) + "|",
    ]
    for name in scores[order[0]]:
        cells = [
            f"{np.mean(scores[a][name]):.3f} ({min(scores[a][name]):.3f} - {max(scores[a][name]):.3f})"
            for a in order
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    loaded = {arm: load(paths) for arm, paths in arms.items()}
    pairs = [(a, b) for a, b in PAIRS if a in loaded and b in loaded]
    found = {pair: differences(*(loaded[arm] for arm in pair)) for pair in pairs}
    lines += [
        "",
        "| difference | " + " | ".join(f"{a} - {b}" for a, b in pairs) + " |",
        "|---" * (len(pairs) + 1) + "|",
    ]
    for name in found[pairs[0]]:
        lines.append(f"| {name} | " + " | ".join(_cell(found[pair][name]) for pair in pairs) + " |")
    return "\n".join(lines) + "\n"


def _cell(score: Score) -> str:
    text = f"{score.value:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"
    return f"**{text}**" if score.low > 0 or score.high < 0 else text


def curves(folder: Path, out: Path) -> None:
    """Loss of every run, smoothed over 16 steps; one panel per arm, since their losses are not comparable."""
    mpl.use("Agg")
    runs: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*-*/metrics.jsonl")):
        runs.setdefault(path.parent.name.rpartition("-")[0], []).append(path.parent)
    shown = [arm for arm in COLOURS if arm in runs]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(3 * len(shown), 2.6), constrained_layout=True, squeeze=False
    )
    for axis, arm in zip(axes[0], shown, strict=True):
        for run in runs[arm]:
            rows = list(read_journal(run))
            loss = np.convolve([row["loss"] for row in rows], np.ones(16) / 16, mode="valid")
            axis.plot([row["samples"] / 1000 for row in rows][15:], loss, color=COLOURS[arm], lw=1, alpha=0.8)
        axis.set(title=f"{arm}, {len(runs[arm])} seeds", xlabel="thousand images")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("training loss")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "ablation_loss.svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=None, help="folder for the figure of the loss curves")
    args = parser.parse_args(argv)
    print(tables(args.folder))
    if args.out:
        curves(args.folder, args.out)


if __name__ == "__main__":
    main()
