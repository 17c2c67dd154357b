"""The charts of a sweep and the words beside them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_factory import write_sweep

from usfm.metrics.item_scores import MASK_COLUMNS
from usfm.report.downstream.charts import (
    MARKERS,
    colours,
    difference_chart,
    pair_looks,
    reliability_chart,
)
from usfm.report.downstream.matches import Match
from usfm.report.downstream.points import Difference, differences
from usfm.report.downstream.robust import grid_of
from usfm.report.downstream.tables import read_sweep
from usfm.report.downstream.words import bounded, reached, readable
from usfm.report.template import share


def test_a_heat_map_by_hand() -> None:
    def row(corruption, severity, value, drop):
        return {"corruption": corruption, "severity": severity, "metric": "dice", "value": value, "low": value,
                "high": value, "drop": drop}  # fmt: skip

    grid = grid_of([row("none", 0, 0.9, 0.0), row("blur", 1, 0.75, 0.15), row("blur", 2, 0.3, 0.6),
                    row("gain", 1, 0.95, -0.05)], 40, 20)  # fmt: skip
    assert (grid.metric, grid.clean, list(grid.cells)) == ("dice", 0.9, ["blur", "gain"])
    assert [cell.share for cell in grid.cells["blur"]] == [pytest.approx(0.5), 1.0]  # a third lost is full colour
    assert grid.cells["gain"][0].share == 0.0


def test_scores_have_names_for_readers() -> None:
    names = ("dice", "hd95_mm", "balanced_accuracy", "iou_nerve", "hd95_px_deep_vessel", "sensitivity_nerve")
    assert [readable(name) for name in names] == [
        "Dice", "HD95, mm", "Balanced accuracy", "IoU, nerve", "HD95, px, deep vessel", "Sensitivity, nerve",
    ]  # fmt: skip
    for name in MASK_COLUMNS:  # these are given of single classes too
        assert readable(f"{name}_deep_vessel") == f"{readable(name)}, deep vessel"


def test_a_match_below_every_point_is_a_bound() -> None:
    of = Match("head", "dual", "scratch", 0.7, 0.05, 0.05)
    assert [reached(replace(of, fraction=fraction)) for fraction in (0.05, 0.0634, 0.514, None)] == [
        "at most 5 %", "6.3 %", "51 %", "not reached",
    ]  # fmt: skip
    bounds = ((None, None), (0.05, None), (None, 0.2), (0.05, 0.125))
    assert [bounded(replace(of, worse_at=worse, better_at=better)) for worse, better in bounds] == [
        "not decided; 1 seed", "worse with 5 %; 1 seed", "better with 20 %; 1 seed",
        "worse with 5 %, better with 12.5 %; 1 seed",
    ]  # fmt: skip
    seeds = ((2, 5), (5, 5))
    assert [bounded(replace(of, fewest_seeds=fewest, most_seeds=most)) for fewest, most in seeds] == [
        "not decided; 2 to 5 seeds", "not decided; 5 seeds",
    ]  # fmt: skip
    assert [share(fraction) for fraction in (0.0005, 0.125, 0.2, 1.0)] == ["0.05 %", "12.5 %", "20 %", "100 %"]


def test_many_initialisations_never_look_alike() -> None:
    inits = [f"init{n}" for n in range(12)]
    of = colours(inits, None)
    assert len({(of[init], MARKERS[n % len(MARKERS)]) for n, init in enumerate(inits)}) == len(inits)


def test_no_two_differences_look_alike() -> None:
    for count in range(1, 7):
        rest = [f"init{n}" for n in range(count)]
        for base in ("scratch", None):
            of = colours([*rest, *([base] if base else [])], base)
            compared = [*((init, base) for init in rest if base), *((rest[0], other) for other in rest[1:])]
            looks = pair_looks(compared, of, base)
            assert len(set(looks.values())) == len(compared)
            assert all(looks[init, base][0] == of[init] for init in rest if base)  # as its curve
            if len(compared) <= 5:
                assert len({colour for colour, _ in looks.values()}) == len(compared)


def test_long_names_do_not_squeeze_the_axes(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.05, 1.0), seeds=range(2), items=20)
    found = differences(read_sweep(folder), "head")

    def shape(of: list[Difference], inits: tuple[str, ...]) -> tuple[float, float]:
        """Width of the axes (of the line at zero) as a share of the chart's, and height of the chart."""
        chart = str(difference_chart(of, inits, inits[1]))
        wide, high = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', chart).groups())
        lines = re.findall(r'd="M ([\d.]+) ([\d.]+) \n?L ([\d.]+) ([\d.]+) \n?"', chart)
        return max((float(x2) - float(x1)) / wide for x1, y1, x2, y2 in lines if y1 == y2), high

    names = {"dual": "a rather long name of a start", "scratch": "untrained", "unet": "another one, no shorter"}
    long = [replace(of, init=names[of.init], base=names[of.base]) for of in found]
    share_of, high = shape(found, ("dual", "scratch", "unet"))
    long_share, long_high = shape(long, tuple(names.values()))
    assert long_share == pytest.approx(share_of, abs=0.02)
    assert long_share > 0.75
    assert long_high > high  # rows of the legend take no room from the axes


def test_a_bin_of_few_answers_has_no_mark_but_is_counted() -> None:
    bins = [
        {"low": 0.5, "high": 0.6, "items": 5, "confidence": 0.55, "right": 0.6},
        {"low": 0.6, "high": 0.7, "items": 4, "confidence": 0.65, "right": 1.0},
        {"low": 0.9, "high": 1.0, "items": 91, "confidence": 0.95, "right": 0.9},
    ]  # fmt: skip
    whole = str(reliability_chart({"dual": bins}, ["dual"], None, "view"))
    fewer = str(reliability_chart({"dual": [bins[0], bins[2]]}, ["dual"], None, "view"))

    def line(chart: str) -> list[str]:
        """Points of the first line in the colour of the curve."""
        found = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--c0\)', chart, flags=re.DOTALL)
        return re.findall(r"[ML] ([\d.]+ [\d.]+)", found[1])

    assert len(line(whole)) == len(line(fewer)) == 2
    assert whole.count("<path") > fewer.count("<path")  # the lower part shows how often it was stated
