"""The numbers of a sweep, from tables that a stated model made up (`sweep_factory`)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from page_reading import Page
from sweep_factory import expected, write_sweep

from usfm.errors import ConfigError, DataError
from usfm.report.downstream.breakdown import further_scores, parts
from usfm.report.downstream.cases import worst
from usfm.report.downstream.points import differences, pairs, points
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.report.downstream.tables import read_sweep, write_table


def test_a_point_is_the_mean_over_seeds_inside_its_interval(tables) -> None:
    found = points(tables, "head")
    assert [(point.init, point.fraction) for point in found] == [
        (init, fraction) for init in ("dual", "scratch", "unet") for fraction in (0.05, 0.2, 1.0)
    ]
    for point in found:
        assert point.score.value == pytest.approx(np.mean(point.values))  # every image weighs the same
        assert point.score.low < point.score.value < point.score.high
        assert (point.tested, point.patients, point.seeds) == (40, 20, (0, 1, 2))
        assert abs(point.score.value - expected(point.init, point.fraction)) < 0.05


def test_a_classification_is_averaged_by_class_not_by_image(tables) -> None:
    for point in points(tables, "view"):
        assert point.metric == "balanced_accuracy"
        assert point.score.value == pytest.approx(np.mean(point.values))


def test_differences_are_paired_and_have_a_verdict(tables) -> None:
    assert pairs(tables) == [("dual", "scratch"), ("unet", "scratch"), ("dual", "unet")]
    value = {(p.init, p.fraction): p.score.value for p in points(tables, "head")}
    found = differences(tables, "head")
    assert len(found) == 9
    for of in found:
        assert of.score.value == pytest.approx(value[of.init, of.fraction] - value[of.base, of.fraction])
    few = next(of for of in found if (of.init, of.base, of.fraction) == ("dual", "scratch", 0.05))
    assert few.score.low > 0
    assert (few.verdict, few.comparison.seeds) == ("better", 3)


def test_scores_by_organ_and_source_are_those_of_their_images(tables) -> None:
    by_source = parts(tables, "head", "source", 1.0)
    assert [(row["init"], row["source"], row["test_items"]) for row in by_source[:2]] == [
        ("dual", "made", 30), ("dual", "other", 10),
    ]  # fmt: skip
    chosen = tables.items.query("task == 'head' and init == 'dual' and fraction == 1 and source == 'made'")
    assert by_source[0]["value"] == pytest.approx(chosen.value.mean())
    scores = {(row["score"], row["init"]): row for row in further_scores(tables, "head", 1.0)}
    done = tables.done
    iou = done[(done.task == "head") & (done.init == "unet") & (done.fraction == 1)].score_iou
    assert scores["iou", "unet"]["mean"] == pytest.approx(iou.mean())
    assert scores["iou", "unet"]["sd"] == pytest.approx(iou.std())


def test_every_score_has_the_interval_that_the_curve_has(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, fractions=(1.0,), seeds=range(3), items=40)
    results = pd.read_parquet(folder / "results.parquet")
    results["score_far"] = [0.1 * seed for seed in results.seed]  # no column of the items
    results["score_auroc"] = results.score_balanced_accuracy  # its value is not looked at
    results.to_parquet(folder / "results.parquet")
    tables = read_sweep(folder)
    for task, metric in (("head", "dice"), ("view", "balanced_accuracy")):
        scores = {(row["score"], row["init"]): row for row in further_scores(tables, task, 1.0)}
        for point in points(tables, task):
            row = scores[metric, point.init]
            assert (row["mean"], row["low"], row["high"]) == pytest.approx(
                (point.score.value, point.score.low, point.score.high)
            )
        assert np.isnan([scores["far", "dual"][end] for end in ("low", "high")]).all()
        assert scores["far", "dual"]["sd"] == pytest.approx(0.1)
    assert 0 < scores["auroc", "dual"]["low"] < scores["auroc", "dual"]["high"] <= 1
    head = {(row["score"], row["init"]): row for row in further_scores(tables, "head", 1.0)}
    distance = head["hd95_px", "scratch"]
    assert distance["low"] < distance["mean"] < distance["high"]
    # a distance is a linear function of Dice in these tables, and so is its interval
    dice = head["dice", "scratch"]
    assert (distance["low"], distance["high"]) == pytest.approx((40 * (1 - dice["high"]), 40 * (1 - dice["low"])))
    page = Page(write_sweep_report(folder)).text
    assert "±: one sd over seeds, where the test images give no interval" in page
    written = pd.read_csv(folder / "tables" / "scores.csv")
    assert written.low.isna().equals(written.score == "far")


def test_seeds_that_were_scored_on_other_items_are_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("scratch",), fractions=(1.0,), seeds=(0, 1), items=6)
    items = pd.read_parquet(folder / "items.parquet")
    items.drop(index=0).to_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match="head scratch at 1 were scored on different test items"):
        points(read_sweep(folder), "head")


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        write_sweep_report(tmp_path)
    folder = write_sweep(tmp_path, tasks=("head",), inits=("scratch",), fractions=(1.0,), seeds=(0,), items=4)
    results = pd.read_parquet(folder / "results.parquet")
    results.drop(columns="metric").to_parquet(folder / "results.parquet")
    with pytest.raises(DataError, match="no column metric"):
        write_sweep_report(folder)
    results.assign(status="out of memory").to_parquet(folder / "results.parquet")
    with pytest.raises(DataError, match="no trial has a score"):
        write_sweep_report(folder)


def test_the_worst_are_one_image_of_each_patient() -> None:
    items = [
        {"id": "a", "group": "p", "value": 0.2}, {"id": "b", "group": "p", "value": 0.1},
        {"id": "c", "group": "q", "value": 0.3}, {"id": "d", "group": "r", "value": 0.9},
    ]  # fmt: skip
    assert [item["id"] for item in worst(items, 2, "dice")] == ["b", "c"]
    assert [item["id"] for item in worst(items, 2, "mae")] == ["d", "c"]
    sure = [{**item, "value": 0.0, "probability": p} for item, p in zip(items, (0.6, 0.7, 0.9, 0.8), strict=True)]
    assert [item["id"] for item in worst(sure, 3, "balanced_accuracy")] == ["c", "d", "b"]
    sure[2]["value"] = sure[3]["value"] = 1.0  # right, and so the better the surer
    assert [item["id"] for item in worst(sure, 3, "balanced_accuracy")] == ["b", "d", "c"]


def test_what_starts_from_scratch_is_the_base_by_any_name(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("dual", "unet"), fractions=(1.0,), seeds=(0,), items=4)
    config = yaml.safe_load((folder / "config.yaml").read_text())

    def base(dual: object, shared: dict, **layers: dict) -> str | None:
        changed = {**config, "inits": {**config["inits"], "dual": dual}, "finetune": shared, **layers}
        (folder / "config.yaml").write_text(yaml.safe_dump(changed))
        return read_sweep(folder).base

    assert base("scratch", {}) == "dual"
    assert base({"optim": {"lr": 1e-3}}, {}) == "dual"  # a fine-tuning starts from scratch unless told otherwise
    assert base({"optim": {"lr": 1e-3}}, {"init": "runs/pretrain"}) is None
    assert base({"init": "runs/pretrain"}, {}) is None  # and the U-Net is another network
    assert base({"network": "resnet18"}, {}) is None
    # layers of single tasks: every task that it is tried in has to start so
    assert base({}, {"init": "runs/pretrain"}, per_task={"head": {"init": "scratch"}}) == "dual"
    assert base({}, {}, per_task={"head": {"init": "runs/pretrain"}}) is None
    assert base("scratch", {}, tuned={"head": {"dual": {"network": "resnet18"}}}) is None
    assert base("scratch", {}, per_task={"other": {"network": "resnet18"}}) == "dual"


def test_a_search_is_no_table_of_fractions(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("scratch",), fractions=(1.0,), seeds=(0,), items=4)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "search": {"space": {}}}))
    with pytest.raises(DataError, match="holds a search"):
        write_sweep_report(folder)


def test_an_empty_table_removes_an_older_one(tmp_path: Path) -> None:
    write_table(tmp_path, "worst", [{"a": 1}])
    assert pd.read_parquet(tmp_path / "worst.parquet").a.tolist() == [1]
    write_table(tmp_path, "worst", [])
    assert list(tmp_path.iterdir()) == []


def test_a_task_in_folds_is_reported_over_all_its_patients(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("dual", "scratch"), fractions=(0.2, 1.0), seeds=range(5))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["tasks"][0]["split_by"] = "folds"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    items = pd.read_parquet(folder / "items.parquet")
    patient = items.group.str.split("/").str[1].astype(int)
    items["split"] = np.where(patient % 3, "train", "test")
    items[patient % 5 == items.seed].to_parquet(folder / "items.parquet")
    found = points(read_sweep(folder), "head")
    assert {(point.tested, point.patients, len(point.seeds)) for point in found} == {(60, 30, 5)}
    page = Page(write_sweep_report(folder))
    assert "every patient is tested once" in page.text
    unseen = pd.read_csv(folder / "tables" / "unseen.csv")
    assert set(zip(unseen.test_items, unseen.test_groups, strict=True)) == {(20, 10)}
    # two seeds of one fold on other items, and one patient in two folds
    items[patient % 5 == items.seed // 2].to_parquet(folder / "items.parquet")
    with pytest.raises(DataError, match="were scored on different test items"):
        points(read_sweep(folder), "head")
