"""Calibration of a sweep: what was stated, and what of it is true."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from page_reading import Page
from sweep_factory import write_sweep

from usfm.report.downstream.calibration import calibration, stated_and_true
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.report.downstream.tables import read_sweep


def test_of_several_labels_every_one_is_a_claim() -> None:
    items = [{"p_a": 0.9, "t_a": 1, "p_b": 0.2, "t_b": 0}, {"p_a": 0.6, "t_a": 0, "p_b": 0.4, "t_b": 1}]
    stated, true = stated_and_true("multilabel", items, ["a", "b"])
    assert (stated.tolist(), true.tolist()) == ([0.9, 0.6, 0.2, 0.4], [1, 0, 0, 1])
    answers = [{"truth": "a", "predicted": "a", "probability": 0.9},
               {"truth": "a", "predicted": "b", "probability": 0.6}]  # fmt: skip
    stated, true = stated_and_true("classification", answers, ["a", "b"])
    assert (stated.tolist(), true.tolist()) == ([0.9, 0.6], [1, 0])


def test_the_page_of_several_labels_has_a_calibration_diagram(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path, tasks=("view",), inits=("dual", "scratch"), fractions=(1.0,), seeds=(0, 1), items=40
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["tasks"][0]["kind"] = "multilabel"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    items, results = pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "results.parquet")
    for name in ("two", "four"):
        items[f"t_{name}"] = (items.truth == name).astype(int)
    items.drop(columns="probability").to_parquet(folder / "items.parquet")
    renamed = results.assign(kind="multilabel", metric="auroc").rename(
        columns={"score_balanced_accuracy": "score_auroc"}
    )
    renamed.to_parquet(folder / "results.parquet")
    tables = read_sweep(folder)
    assert calibration(tables, "view", ["dual", "scratch"], 1.0).claimed == "labels"
    page = Page(write_sweep_report(folder, robustness=False))
    names = [attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg"]
    assert "share that is there over stated probability, view" in names
    assert "Labels with 100 % of the training labels, all seeds pooled" in page.text
    assert (
        "too high by" in page.text
    )  # a label that is there less often than stated need not be stated with certainty
    bins = pd.read_csv(folder / "tables" / "calibration.csv")
    assert set(bins.groupby("init")["items"].sum()) == {2 * 2 * 40}  # two labels, two seeds
    mine = items[items.init == "dual"]
    stated = np.concatenate([mine.p_two, mine.p_four])
    rows = bins[bins.init == "dual"]
    assert np.isclose((rows.confidence * rows["items"]).sum() / rows["items"].sum(), stated.mean())
