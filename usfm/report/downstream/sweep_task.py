"""What the page of a sweep shows of one task, and the rows of the tables beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import UsfmError
from usfm.metrics.item_scores import HIGHER_IS_BETTER
from usfm.models.bundle import load_bundle
from usfm.report.downstream.breakdown import further_scores, parts
from usfm.report.downstream.calibration import Calibration, calibration
from usfm.report.downstream.cases import Drawn, draw_cases, worst
from usfm.report.downstream.charts import curve_chart, difference_chart
from usfm.report.downstream.matches import Match, matches
from usfm.report.downstream.measured import Measured, measured
from usfm.report.downstream.points import (
    Difference,
    Point,
    differences,
    differences_to_all,
    points,
    unseen_differences,
)
from usfm.report.downstream.robust import Grid, robust_grid
from usfm.report.downstream.tables import SweepTables
from usfm.report.template import share

__all__ = ["TABLE_NAMES", "Claim", "TaskPart", "task_part"]

TABLE_NAMES = (
    *("points", "differences", "unseen", "measured", "to_all", "matches"),
    *("organs", "sources", "scores", "calibration", "robustness", "worst"),
)
FEW_LABELS = 0.2  # the share of the labels at which the paper claims that its encoder holds
WORST = 8


@dataclass(frozen=True)
class Claim:
    """The score of an initialisation with few labels, as a share of its own with most, and minus that from scratch.

    Attributes:
        few: with few labels.
        most: with the most that it was trained with, as a rule all.
        difference: to the initialisation from scratch, with few labels; None = there is none.
    """

    few: Point
    most: Point
    difference: Difference | None

    @property
    def kept(self) -> float | None:
        """Share of the score that few labels keep; None where less of the score is better."""
        return self.few.score.value / self.most.score.value if HIGHER_IS_BETTER[self.few.metric] else None


@dataclass(frozen=True)
class TaskPart:
    """One task on the page; `most` is the largest label fraction, `lead` the initialisation in question.

    Attributes:
        config: the task.
        metric: its selecting score.
        inits: initialisations that it was trained from.
        lead: the first that is not the one from scratch.
        most: largest label fraction.
        points: of the curves, by fraction.
        differences: paired, by pair and fraction.
        unseen: the same differences over the images that pre-training never saw; none with `split_by: split`.
        measured: errors of what the masks measure, by fraction and initialisation.
        matches: share of the labels that equals all labels from scratch.
        claims: with few labels, by initialisation other than the one from scratch; none of one fraction alone.
        curve: chart.
        difference_chart: chart, "" where nothing was compared.
        grids: by "organ", "source" and "score", then by its value and initialisation.
        calibration: of classes and labels.
        shown: fold of the run whose images are shown, by initialisation; 0 where there are no folds.
        robustness: by initialisation.
        cases: worst test images of the lead.
        absent: (what was left out, why).
        tables: rows by name of the table.
    """

    config: TaskConfig
    metric: str
    inits: list[str]
    lead: str
    most: float
    points: list[Point]
    differences: list[Difference]
    unseen: list[Difference]
    measured: dict[float, dict[str, Measured]]
    matches: list[Match]
    claims: dict[str, Claim]
    curve: Markup
    difference_chart: Markup | str
    grids: dict[str, dict[str, dict[str, Mapping[str, Any]]]]
    calibration: Calibration | None
    shown: dict[str, int] = field(default_factory=dict)
    robustness: dict[str, Grid] = field(default_factory=dict)
    cases: list[Drawn] = field(default_factory=list)
    absent: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def match(self, init: str) -> Match | None:
        """The share of the labels that gives an initialisation the score of all labels from scratch."""
        return next((of for of in self.matches if of.init == init), None)

    @property
    def without_interval(self) -> bool:
        """Whether a score of the table of all scores has a standard deviation alone."""
        cells = [row for of in self.grids["score"].values() for row in of.values()]
        return any(np.isnan(row["low"]) and row["seeds"] > 1 for row in cells)

    @property
    def less_is_better(self) -> bool:
        """Whether the score is an error."""
        return not HIGHER_IS_BETTER[self.metric]

    @property
    def one_run(self) -> bool:
        """Whether an interval of it rests on one seed, and so is over patients alone."""
        paired = [of.comparison.seeds for of in (*self.differences, *self.unseen)]
        return 1 in (*(len(point.seeds) for point in self.points), *paired)

    @property
    def folds_tested(self) -> int:
        """How many folds the seeds of the first point tested."""
        return len({self.config.of_seed(seed).fold for seed in self.points[0].seeds})

    @property
    def tested_once(self) -> bool:
        """Whether these seeds tested every known patient exactly once."""
        seeds, everywhere = self.points[0].seeds, {point.seeds for point in self.points}
        once = self.folds_tested == len(seeds) == self.config.folds
        return self.config.split_by == "folds" and once and everywhere == {seeds}


def task_part(tables: SweepTables, name: str, robustness: bool) -> TaskPart:
    """Everything of one task; what needs shards or bundles that are gone is left out and named."""
    found, compared = points(tables, name), differences(tables, name)
    inits = [init for init in tables.inits if init in {point.init for point in found}]
    most = max(point.fraction for point in found)
    by = {"organ": parts(tables, name, "organ", most), "source": parts(tables, name, "source", most),
          "score": further_scores(tables, name, most)}  # fmt: skip
    to_all = differences_to_all(tables, name)
    matched = matches(found, to_all, tables.base, tables.seeds)
    in_question = [init for init in inits if init != tables.base] or inits
    config = tables.task_configs[name]
    part = TaskPart(
        config=config,
        metric=found[0].metric,
        inits=inits,
        lead=in_question[0],
        most=most,
        points=sorted(found, key=lambda point: (point.fraction, inits.index(point.init))),
        differences=compared,
        unseen=unseen_differences(tables, name),
        measured=measured(tables, name),
        matches=matched,
        claims=_claims(found, compared, in_question, tables.base),
        curve=curve_chart(found, tables.inits, tables.base, matched[0] if matched else None),
        difference_chart=difference_chart(compared, tables.inits, tables.base) if compared else "",
        grids={column: _grid(rows, column) for column, rows in by.items()},
        calibration=calibration(tables, name, inits, most),
    )
    part.tables.update(
        points=[point.row() for point in part.points], differences=[of.row() for of in compared],
        unseen=[of.row() for of in part.unseen],
        measured=[one.row() for of_fraction in part.measured.values() for one in of_fraction.values()],
        to_all=[of.row() for of in to_all], matches=[of.row() for of in matched],
        organs=by["organ"], sources=by["source"], scores=by["score"],
        calibration=part.calibration.rows if part.calibration else [],
    )  # fmt: skip
    _look_at_images(part, tables, robustness)
    return part


def _look_at_images(part: TaskPart, tables: SweepTables, robustness: bool) -> None:
    """Add what needs the shards and the kept bundles: the worst cases and the robustness."""
    name = part.config.name
    for init in part.inits if robustness else [part.lead]:
        shown = tables.shown_run(name, init, part.most)
        if shown is None:
            reason = f"no trial of it with {share(part.most)} of the labels has a score"
            part.absent.append((f"test images of {name} from {init}", reason))
            continue
        task = part.config.of_seed(int(shown["seed"]))
        try:
            data = load_task(tables.config["shards"], task)["test"]
        except UsfmError as error:
            part.absent.append((f"worst cases and robustness of {name}", str(error)))
            return
        try:
            model, spec = load_bundle(tables.folder / str(shown["bundle"]))
        except UsfmError as error:
            part.absent.append((f"test images of {name} from {init}", str(error)))
            continue
        part.shown[init] = task.fold
        keys = {"task": name, "init": init, "fraction": part.most, "seed": int(shown["seed"])}
        if robustness:
            try:
                grid = robust_grid(model, data, part.config, spec.inference)
            except UsfmError as error:  # no number for an image that is made worse
                part.absent.append((f"robustness of {name} from {init}", str(error)))
            else:
                part.robustness[init] = grid
                part.tables.setdefault("robustness", []).extend(keys | row for row in grid.rows)
        if init == part.lead:
            items = tables.runs(name, init, part.most)[int(shown["seed"])]
            part.cases.extend(
                draw_cases(model, data, part.config, worst(items, WORST, part.metric), spec.inference)
            )
            part.tables["worst"] = [
                {**keys, "id": case.row_id, "value": case.value, "note": "; ".join(case.lines)}
                for case in part.cases
            ]


def _claims(
    found: Sequence[Point], compared: Sequence[Difference], inits: Sequence[str], base: str | None
) -> dict[str, Claim]:
    claims: dict[str, Claim] = {}
    for init in inits:
        mine = {point.fraction: point for point in found if point.init == init}
        *fewer, most = sorted(mine)
        if fewer:
            few = min(fewer, key=lambda fraction: abs(fraction - FEW_LABELS))
            against = [of for of in compared if (of.init, of.base, of.fraction) == (init, base, few)]
            claims[init] = Claim(mine[few], mine[most], against[0] if against else None)
    return claims


def _grid(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Rows by the value of a column, then by initialisation."""
    grid: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        grid.setdefault(str(row[column]), {})[row["init"]] = row
    return grid
