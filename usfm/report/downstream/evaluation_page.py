"""The report of one evaluation.

evaluation.json        scores with intervals, confusion, every item; model version, split, shards
items.csv, .parquet    one row per image, see `usfm.metrics.items`
patients.csv, .parquet one row per patient
robustness.csv, .parquet
                       the selecting score on images made worse, where it was asked for
report.html            self-contained page
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import nn

from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.metrics.classification import reliability
from usfm.metrics.evaluation import HIGHER_IS_BETTER, Evaluation
from usfm.models.bundle import BundleSpec
from usfm.models.windows import WindowConfig
from usfm.report.downstream.calibration import CLAIMED, calibration_words, stated_and_true
from usfm.report.downstream.cases import Drawn, draw_cases, worst
from usfm.report.downstream.charts import reliability_chart
from usfm.report.downstream.evaluation_charts import agreement_chart, change_chart, spread_chart
from usfm.report.downstream.robust import Grid
from usfm.report.downstream.tables import write_table
from usfm.report.downstream.words import readable
from usfm.report.numbers import row_percentages
from usfm.report.overlays import worst_median_best
from usfm.report.template import render
from usfm.train.durable import write_text

__all__ = ["Evaluated", "write_evaluation"]

WORST = 12


@dataclass(frozen=True)
class Evaluated:
    """A bundle and what it was scored on.

    Attributes:
        result: the scores.
        model: of the bundle.
        spec: of the bundle.
        task: of the set.
        data: the set.
        split: its name.
        shards: where it is from.
        windows: how images were shown to the model.
        robustness: None = not asked for.
    """

    result: Evaluation
    model: nn.Module
    spec: BundleSpec
    task: TaskConfig
    data: LabelledSet
    split: str
    shards: str
    windows: WindowConfig
    robustness: Grid | None


def write_evaluation(folder: Path, of: Evaluated) -> Path:
    """Write everything into a folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {**of.result.to_json(), "version": of.spec.version, "split": of.split, "shards": of.shards}
    write_text(folder / "evaluation.json", json.dumps(document, indent=1) + "\n")
    write_table(folder, "items", of.result.per_item)
    write_table(folder, "patients", of.result.per_patient())
    write_table(folder, "robustness", of.robustness.rows if of.robustness is not None else [])
    result, counts = of.result, of.result.confusion
    page = render(
        "evaluation.html",
        of=of,
        readable=readable,
        less_is_better=not HIGHER_IS_BETTER[result.metric],
        score=result.scores[result.metric],
        patients=len(set(of.data.groups)),
        charts=_charts(of),
        confusion=list(zip(result.classes, counts, row_percentages(counts), strict=True)) if counts else [],
        parts={"organ": result.per_organ(), "source": result.per_source()},
        known={source for source, rows in of.spec.trained_on.items() if rows},
        cases=_cases(of),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _charts(of: Evaluated) -> list[tuple[Markup, str]]:
    """Charts of the kind with their captions."""
    items, kind = of.result.per_item, of.task.kind
    if kind in CLAIMED:
        stated, true = stated_and_true(kind, items, of.result.classes)
        bins, claimed = {of.task.name: reliability(stated, true > 0.5)}, CLAIMED[kind]
        chart = reliability_chart(bins, [of.task.name], None, of.task.name, claimed)
        return [(chart, calibration_words(claimed))]
    if kind == "regression":
        return [(agreement_chart(items, of.task.unit), AGREEMENT)]
    spread = (spread_chart(items, of.result.metric), SPREAD)
    return [spread, *([(change_chart(items), CHANGE)] if kind == "enhancement" else [])]


def _cases(of: Evaluated) -> list[tuple[str, Sequence[Drawn]]]:
    """Pictures by rank: the worst; where every image has its own score, some median and best ones too."""
    items = of.result.per_item
    chosen: dict[str, list[Any]] = {"worst": list(worst(items, WORST, of.result.metric))}
    if of.task.kind in ("segmentation", "enhancement"):
        for rank, item in worst_median_best(items, 4):
            if rank != "worst":
                chosen.setdefault(rank, []).append(item)
    return [(rank, draw_cases(of.model, of.data, of.task, rows, of.windows)) for rank, rows in chosen.items()]


AGREEMENT = (
    "Left: answer over truth; dashed: equal. Right: their difference; orange: its mean (bias) and the limits "
    "between which 95 % of normal differences lie (Bland and Altman)."
)
SPREAD = "Every image by its score, the lowest first; dashed: the median."
CHANGE = "Every image before and after; above the dashed line it came nearer to the clean one."
