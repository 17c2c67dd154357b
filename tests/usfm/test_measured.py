"""Circumferences that masks measure, compared by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from page_reading import Page
from sweep_factory import write_sweep

from usfm.report.downstream.measured import measured
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.report.downstream.tables import read_sweep

OFF_MM = {"dual": [4.0, 6.0], "scratch": [-9.0, -11.0], "unet": [0.0, 0.0]}  # by seed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_sweep(tmp_path, tasks=("head",), fractions=(0.2, 1.0), seeds=range(2), items=8)
    config = yaml.safe_load((made / "config.yaml").read_text())
    config["tasks"][0]["measure"] = "circumference"
    (made / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    items = pd.read_parquet(made / "items.parquet")
    items["circumference_truth_mm"] = 100.0
    items["circumference_mm"] = [100 + OFF_MM[row.init][row.seed] for row in items.itertuples()]
    few = items.fraction == 0.2
    items.loc[few & (items.init == "dual"), "circumference_mm"] = 0.0  # nothing drawn
    unknown = items.id.str.endswith("003")
    items.loc[unknown, ["circumference_mm", "circumference_truth_mm"]] = np.nan  # no pixel size
    items.to_parquet(made / "items.parquet")
    return made


def test_errors_and_their_differences_are_those_of_the_masks(folder: Path) -> None:
    found = measured(read_sweep(folder), "head")
    assert list(found) == [0.2, 1.0]
    whole = found[1.0]
    assert {init: one.error.value for init, one in whole.items()} == {"dual": 5, "scratch": 10, "unet": 0}
    assert whole["scratch"].comparison is None
    against = whole["dual"].comparison
    assert (against.difference.value, against.items, against.groups, against.seeds) == (-5, 7, 4, 2)
    assert against.better, "a smaller error is better"
    assert found[0.2]["dual"].error.value == 100, "a mask without a region measures 0"
    assert not found[0.2]["dual"].comparison.better


def test_the_page_and_a_table_tell_them(folder: Path) -> None:
    page = Page(write_sweep_report(folder, robustness=False))
    assert "Error of the circumference that the masks measure" in page.text
    table = pd.read_csv(folder / "tables" / "measured.csv").set_index(["init", "fraction"])
    assert table.loc[("dual", 1.0), ["error_mm", "difference"]].tolist() == [5, -5]


def test_a_task_that_measures_nothing_has_none(tmp_path: Path) -> None:
    write_sweep(tmp_path, tasks=("head",), fractions=(1.0,), seeds=range(2), items=8)
    assert measured(read_sweep(tmp_path), "head") == {}
