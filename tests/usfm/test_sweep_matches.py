"""The share of the labels that gives the score of all of them from scratch, and what decides it."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from page_reading import Page
from sweep_factory import write_sweep

from usfm.metrics.compare import fraction_to_match
from usfm.metrics.intervals import Score
from usfm.report.downstream.matches import matches
from usfm.report.downstream.points import differences, differences_to_all, points
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.report.downstream.tables import read_sweep
from usfm.report.downstream.words import bounded, reached


def test_the_share_of_labels_that_equals_all_from_scratch(tables) -> None:
    found = points(tables, "head")
    target = next(p.score.value for p in found if (p.init, p.fraction) == ("scratch", 1.0))
    to_all = differences_to_all(tables, "head")
    dual, unet = matches(found, to_all, "scratch", 3)
    assert (dual.init, unet.init, dual.target) == ("dual", "unet", target)
    reached = [p.fraction for p in found if p.init == "dual" and p.score.value >= target]
    assert 0 < dual.fraction <= min(reached)
    assert (dual.fewest_seeds, dual.most_seeds) == (3, 3)
    assert matches(found, to_all, None, 3) == []
    no_curve = [of for of in to_all if of.fraction == 1.0]
    assert matches(found, no_curve, "scratch", 3) == matches(found, [], "scratch", 3) == []


def test_the_score_with_all_labels_from_scratch_is_compared_with_every_point(tables) -> None:
    value = {(p.init, p.fraction): p.score.value for p in points(tables, "head")}
    found = differences_to_all(tables, "head")
    assert [(of.init, of.fraction, of.base, of.base_fraction) for of in found] == [
        (init, fraction, "scratch", 1.0) for init in ("dual", "unet") for fraction in (0.05, 0.2, 1.0)
    ]
    for of in found:
        assert of.score.value == pytest.approx(value[of.init, of.fraction] - value["scratch", 1.0])
    # better than scratch with as few labels says nothing of scratch with all
    at_few = next(of for of in differences(tables, "head") if (of.init, of.fraction) == ("dual", 0.05))
    to_all = next(of for of in found if (of.init, of.fraction) == ("dual", 0.05))
    assert (at_few.verdict, to_all.verdict) == ("better", "open")
    assert matches(points(tables, "head"), found, "scratch", 3)[0].better_at != 0.05


def test_a_share_of_labels_lies_between_shares_that_are_decided(tables) -> None:
    found, to_all = points(tables, "head"), differences_to_all(tables, "head")

    def bounds(*values: float) -> tuple[float | None, float | None, float | None]:
        """Worse, equal and better where dual at 5, 20 and 100 % so differs from scratch with all, each ± 0.02."""
        moved, of_fraction = [], dict(zip((0.05, 0.2, 1.0), values, strict=True))
        for of in to_all:
            if of.init == "dual":
                at = of_fraction[of.fraction]
                compared = replace(of.comparison, difference=Score(at, at - 0.02, at + 0.02))
                moved.append(replace(of, comparison=compared))
        match = matches(found, moved, "scratch", 3)[0]
        assert (match.row()["worse_at"], match.row()["better_at"]) == (match.worse_at, match.better_at)
        return match.worse_at, match.fraction, match.better_at

    assert bounds(-0.1, 0.01, 0.1) == (0.05, pytest.approx(0.05 * 4 ** (0.1 / 0.11)), 1.0)
    assert bounds(-0.1, 0.1, 0.1) == (0.05, pytest.approx(0.1), 0.2)
    assert bounds(0.1, 0.1, 0.1) == (None, 0.05, 0.05)
    assert bounds(-0.1, -0.1, -0.1) == (1.0, None, None)
    assert bounds(0.01, 0.01, 0.01) == (None, 0.05, None)
    # equal or better below a share at which it is worse is chance, and no match
    assert bounds(0.1, -0.1, 0.0) == (0.2, pytest.approx(1.0), None)
    assert bounds(0.1, -0.1, 0.1) == (0.2, pytest.approx(math.sqrt(0.2)), 1.0)
    assert bounds(0.01, -0.1, -0.01) == (0.2, None, None)


def without(folder: Path, init: str, fraction: float, seeds: set[int]) -> None:
    """Let the trials of some seeds fail."""
    for name in ("results", "items"):
        table = pd.read_parquet(folder / f"{name}.parquet")
        gone = (table.init == init) & (table.fraction == fraction) & table.seed.isin(seeds)
        kept = table.assign(status=table.status.mask(gone, "out of memory")) if name == "results" else table[~gone]
        kept.to_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize(("seed", "alone"), [(2, "better"), (4, "worse")])
def test_one_seed_of_several_decides_nothing(tmp_path: Path, seed: int, alone: str) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("dual", "scratch"), fractions=(0.05, 0.2, 1.0))
    whole = read_sweep(folder)
    every = differences_to_all(whole, "head")
    assert [(of.verdict, of.comparison.seeds) for of in every[:1]] == [("open", 5)]
    without(folder, "scratch", 1.0, set(range(5)) - {seed})
    tables = read_sweep(folder)
    found, to_all = points(tables, "head"), differences_to_all(tables, "head")
    assert [(of.verdict, of.comparison.seeds) for of in to_all[:1]] == [(alone, 1)]
    (match,) = matches(found, to_all, "scratch", tables.seeds)
    assert (match.worse_at, match.better_at, match.fewest_seeds, match.most_seeds) == (None, None, 1, 1)
    # the curve, too, is of the seed that both have
    value = whole.results.set_index(["init", "fraction", "seed"]).value
    curve = {fraction: value["dual", fraction, seed] for fraction in (0.05, 0.2, 1.0)}
    assert match.fraction == pytest.approx(fraction_to_match(curve, value["scratch", 1.0, seed]))
    (lone,) = matches(found, to_all, "scratch", 1)  # a sweep of one seed has its patients alone
    assert 0.05 in (lone.worse_at, lone.better_at)
    page = " ".join(Page(write_sweep_report(folder, robustness=False)).text.split())
    assert page.count("(not decided; 1 seed)") == 3  # headline, chart and its caption
    assert "with one seed they are over patients alone" in page
    assert "beyond its interval of 2 seeds or more (below that share nothing is read" in page


def test_seeds_that_one_share_lacks_move_no_other(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("dual", "scratch"), fractions=(0.05, 0.2, 1.0))
    without(folder, "dual", 0.05, {0, 1, 2})
    tables = read_sweep(folder)
    (match,) = matches(points(tables, "head"), differences_to_all(tables, "head"), "scratch", tables.seeds)
    assert (match.fewest_seeds, match.most_seeds, match.better_at) == (2, 5, 1.0)
    page = " ".join(Page(write_sweep_report(folder, robustness=False)).text.split())
    assert page.count("(better with 100 %; 2 to 5 seeds)") == 3
    short = page[page.index("In short") : page.index("60 test images")]
    assert "2 seeds" not in short.replace("of 2 seeds or more", "")  # few labels are 20 % here
    # of one seed, the share counts for nothing: the match is read off the two others
    without(folder, "dual", 0.05, {0, 1, 2, 4})
    tables = read_sweep(folder)
    to_all = differences_to_all(tables, "head")
    (match,) = matches(points(tables, "head"), to_all, "scratch", tables.seeds)
    assert (match.fewest_seeds, match.most_seeds, match.better_at, match.least) == (5, 5, 1.0, 0.2)
    curve = {of.fraction: of.score.value for of in to_all if of.comparison.seeds == 5}
    assert match.fraction == pytest.approx(fraction_to_match(curve, 0.0))
    without(folder, "dual", 0.2, {0, 1, 2, 4})
    page = " ".join(Page(write_sweep_report(folder, robustness=False)).text.split())
    short = page[page.index("In short") : page.index("60 test images")]
    assert "better 1 seed" in short  # its difference with few labels


def test_every_start_has_a_row_with_its_own_match(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.05, 0.2, 1.0), seeds=(0, 1), items=20)
    text = write_sweep_report(folder).read_text("utf-8")
    short = text[text.index("In short") : text.index('id="task-head"')]
    of_dual, of_unet = short.split("<tr>")[2:]
    assert '<td rowspan="2"><a href="#task-head">' in of_dual
    assert "rowspan" not in of_unet
    tables = read_sweep(folder)
    found = points(tables, "head")
    of_match = {of.init: of for of in matches(found, differences_to_all(tables, "head"), "scratch", tables.seeds)}
    said = {init: (reached(match), bounded(match)) for init, match in of_match.items()}
    assert said["dual"] != said["unet"]
    for init, row in (("dual", of_dual), ("unet", of_unet)):
        assert f"{init}</td>" in row
        assert all(
            f"{point.score.value:.3f}" in row for point in found if point.init == init and point.fraction >= 0.2
        )
        assert f"{said[init][0]} <br>" in row
        assert f"({said[init][1]})" in row
    # one that was tried with all labels alone has no row, and no other one's match
    without = pd.read_parquet(folder / "results.parquet")
    without = without[(without.init != "dual") | (without.fraction == 1)]
    without.to_parquet(folder / "results.parquet")
    text = write_sweep_report(folder).read_text("utf-8")
    (row,) = text[text.index("In short") : text.index('id="task-head"')].split("<tr>")[2:]
    assert "unet</td>" in row
