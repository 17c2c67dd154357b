"""What the page of a sweep says, from tables that a stated model made up (`sweep_factory`)."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from page_reading import Page
from sweep_factory import write_sweep

from usfm.data.shards import write_index
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.report.downstream.sweep_page import _same_budget, write_sweep_report
from usfm.report.downstream.sweep_task import TaskPart


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("sweep"), fractions=(0.05, 0.2, 1.0), seeds=range(3), items=40)


def test_the_page_says_whose_settings_were_chosen(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.2, 1.0), seeds=(0,), items=4)
    config = yaml.safe_load((folder / "config.yaml").read_text())

    def limits(**values) -> str:
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, **values}))
        page = Page(write_sweep_report(folder)).text
        return " ".join(page[page.rindex("Limits") :].split())

    said = limits()
    assert "All initialisations share learning rate and steps" in said
    assert "dual starts from weights of one run" in said
    assert "weights of one run" not in limits(
        inits={"dual": "scratch", "scratch": "scratch", "unet": {"network": "unet"}}
    )
    own = {**config["inits"], "unet": {"network": "unet", "optim": {"lr": 1e-3}}}
    assert "unet has settings of its own" in limits(inits=own)
    tuned = {"head": {"dual": {"optim": {"lr": 1e-3}}, "scratch": {"layer_decay": 0.8}, "unet": {}}}
    said = limits(tuned=tuned)
    assert "Settings of dual, scratch were searched before this" in said
    assert "All others share learning rate and steps" in said
    said = limits(tuned=tuned, inits=own)  # none is left
    assert "scratch were searched before this" in said
    assert "share learning rate" not in said
    assert "share learning rate" not in limits(tuned={"head": {**tuned["head"], "unet": {"steps": 8}}})
    several = write_sweep(tmp_path / "several", fractions=(0.2, 1.0), seeds=(0,), items=4)
    config = yaml.safe_load((several / "config.yaml").read_text())
    tuned["head"]["unet"] = {"steps": 8}
    (several / "config.yaml").write_text(yaml.safe_dump({**config, "tuned": tuned}))
    said = " ".join(Page(write_sweep_report(several)).text.split())
    assert "Settings of dual, scratch, unet (head) were searched before this" in said
    assert "All others share learning rate and steps" in said  # those of view


def test_the_page_names_what_learnt_from_labels_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.2, 1.0), seeds=(0,), items=4)
    monkeypatch.setattr(TaskPart, "tested_once", True)
    encoder = EncoderConfig(size="nano", img_px=32, patch_px=8)
    spec = BundleSpec(kind="segmentation", name="head", encoder=encoder, classes=["background", "head"])
    save_bundle(tmp_path / "tuned", Encoder(encoder), spec)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    items = pd.read_parquet(folder / "items.parquet")
    items.assign(split="test").to_parquet(folder / "items.parquet")

    def limits(split_by: str, **values) -> str:
        sources = {"train_sources": ["a"], "test_sources": ["b"]} if split_by == "source" else {}
        tasks = [{**config["tasks"][0], "split_by": split_by, **sources}]
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "tasks": tasks, **values}))
        page = Page(write_sweep_report(folder)).text
        return " ".join(page[page.rindex("Limits") :].split())

    tuned = {"head": {"dual": {"optim": {"lr": 1e-3}}}}
    inits = {**config["inits"], "dual": str(tmp_path / "tuned")}
    said = limits("folds", inits=inits, tuned=tuned)
    assert "dual starts from weights that were trained with labels. These may be labels of patients" in said
    once = "every patient is tested once, by a run that never saw it with its label"
    head = Page(folder / "report.html").text
    assert once not in " ".join(head.split())
    assert "every patient is tested once, by a run that was not trained on it; what dual began" in " ".join(
        head.split()
    )
    assert "A search chose settings for head by labels" in said
    assert "is not known" not in said
    assert "A search chose settings for head by labels" in limits("source", inits=inits, tuned=tuned)
    said = limits("folds")  # its pre-training run is not there
    assert "Whether dual starts from weights that were trained with labels is not known" in said
    assert "A search chose" not in said
    per_task = {"head": {"init": str(tmp_path / "tuned")}}
    assert "scratch starts from weights" not in limits("folds", per_task=per_task)  # inits says more
    shared = limits(
        "folds", inits={"dual": {}, "scratch": "scratch", "unet": {"init": "scratch"}}, per_task=per_task
    )
    assert "dual starts from weights that were trained with labels" in shared
    plain = {"dual": {"network": "unet"}, "scratch": "scratch", "unet": {"network": "unet"}}
    assert "trained with labels" not in limits("folds", inits=plain)
    assert once in " ".join(Page(folder / "report.html").text.split())
    said = limits("split", inits=inits, tuned=tuned)  # the bundle does not say that the split kept them apart
    assert "dual starts from weights that were trained with labels" in said
    assert "A search chose" not in said
    (tmp_path / "shards").mkdir()
    write_index(tmp_path / "shards", "made", [])
    kept = {"split_by": "split", "shards_fingerprint": "made", "labels_before": False}
    save_bundle(tmp_path / "tuned", Encoder(encoder), spec.model_copy(update={"metrics": kept}))
    for split_by, named in (("split", False), ("folds", True)):
        said = limits(split_by, inits=inits, shards=str(tmp_path / "shards"))
        assert ("trained with labels" in said) is named


def test_the_page_is_whole_without_shards_and_says_what_is_missing(folder: Path) -> None:
    results = pd.read_parquet(folder / "results.parquet")
    evil = "<script>alert('x')</script>"
    results.loc[results.index[-1], ["status", "value"]] = [evil, np.nan]
    items = pd.read_parquet(folder / "items.parquet")
    last = results.iloc[-1]
    same = (items.task == last.task) & (items.init == last.init) & (items.fraction == last.fraction)
    copy = folder.parent / "failed"
    copy.mkdir()
    (copy / "config.yaml").write_text((folder / "config.yaml").read_text())
    results.to_parquet(copy / "results.parquet")
    items[~(same & (items.seed == last.seed))].to_parquet(copy / "items.parquet")
    page = Page(write_sweep_report(copy))
    assert not [tag for tag, _ in page.tags if tag in ("script", "link")]
    assert not [attrs for _, attrs in page.tags for name in ("src", "href") if "http" in attrs.get(name, "")]
    assert evil in page.text  # as text
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [
        "short", "task-head", "task-view", "cost", "limits",
    ]  # fmt: skip
    assert "Left out: worst cases and robustness of head" in page.text
    assert page.text.count("None: what was left out is said at the top") == 2
    assert "by organ" not in page.text  # each task has one, which would repeat the curve's last point
    assert "Dice by source" in page.text
    assert len(pd.read_csv(copy / "tables" / "organs.csv")) == 6
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert {attrs["role"] for attrs in charts} == {"img"}
    assert (
        len({attrs["aria-label"] for attrs in charts}) == 5
    )  # two curves, two differences, one reliability diagram
    names = {"points", "differences", "to_all", "matches", "organs", "sources", "scores", "calibration", "cost"}
    assert {path.stem for path in (copy / "tables").iterdir()} == names
    with (copy / "tables" / "points.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 18
    assert rows[0]["low"] < rows[0]["value"] < rows[0]["high"]
    assert pd.read_parquet(copy / "tables" / "points.parquet").seeds.tolist()[-1] == 2  # the failed one is out


def test_trials_that_failed_at_the_largest_fraction_leave_a_gap(small_shards: Path, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("view",), fractions=(0.125, 0.2, 1.0), seeds=(0, 1), items=20,
                         shards=small_shards)  # fmt: skip
    results, items = pd.read_parquet(folder / "results.parquet"), pd.read_parquet(folder / "items.parquet")
    results.loc[(results.init == "dual") & (results.fraction == 1), "status"] = "out of memory"
    results.to_parquet(folder / "results.parquet")
    items[(items.init != "dual") | (items.fraction < 1)].to_parquet(folder / "items.parquet")
    page = Page(write_sweep_report(folder))
    assert "test images of view from dual: no trial of it with 100 % of the labels has a score" in page.text
    short = page.text[page.text.index("In short") : page.text.index("20 test images")]
    assert "12.5 %" in short  # few labels; the most it has are the 20 % beside it
    assert short.count("20 %") == 2  # few labels of the U-Net are these
    assert set(pd.read_csv(folder / "tables" / "calibration.csv").init) == {"scratch", "unet"}


def test_without_all_labels_nothing_is_said_of_them(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.05, 0.2), seeds=(0,), items=8)
    page = Page(write_sweep_report(folder))
    assert "one label fraction alone" not in page.text
    assert "Dashed:" not in page.text


def test_a_task_says_what_it_leaves_out(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, fractions=(0.2, 1.0), seeds=(0,), items=4)
    assert "leaves out" not in Page(write_sweep_report(folder)).text  # of a sweep whose plan is gone
    counts = {"train": {"label 'covid' is of no class": 9}, "test": {"label 'covid' is of no class": 1}}
    (folder / "plan.json").write_text(json.dumps({"left_out": {"view": counts}}))
    page = Page(write_sweep_report(folder)).text
    assert page.count("The task leaves out: label 'covid' is of no class (10 rows).") == 1
    assert page.index("The task leaves out") > page.index("segmentation")


def test_between_sources_the_page_shows_images_that_pre_training_never_saw(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), inits=("dual", "scratch"), fractions=(0.2, 1.0), seeds=(0, 1))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["tasks"][0] |= {"split_by": "source", "train_sources": ["another"], "test_sources": ["made", "other"]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    items = pd.read_parquet(folder / "items.parquet")
    patient = items.group.str.split("/").str[1].astype(int)
    items["split"] = np.where(patient % 3, "train", np.where(patient % 2, "val", "test"))
    items.to_parquet(folder / "items.parquet")
    page = Page(write_sweep_report(folder, robustness=False)).text
    unseen = pd.read_csv(folder / "tables" / "unseen.csv")
    assert unseen.test_items.tolist() == [20, 20]
    kept = items[items.split != "train"].query("fraction == 0.2").groupby("init").value.mean()
    assert unseen.difference[0] == pytest.approx(kept.dual - kept.scratch)
    assert "Of sources that are tested, the images of all splits of ingest are." in " ".join(page.split())
    assert "Not asked for" in page
    items.assign(split="train").to_parquet(folder / "items.parquet")
    page = Page(write_sweep_report(folder, robustness=False)).text
    assert "in a table of their own where there are others" in " ".join(page.split())
    assert not (folder / "tables" / "unseen.csv").exists()


def test_of_a_number_less_error_is_better_and_its_unit_is_said(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, tasks=("head",), fractions=(0.2, 1.0), seeds=(0, 1), items=8)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    number = {"kind": "regression", "target": "mask_perimeter", "unit": "mm", "classes": {}}
    config["tasks"] = [{**config["tasks"][0], **number}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results, items = pd.read_parquet(folder / "results.parquet"), pd.read_parquet(folder / "items.parquet")
    error = 100 * (1 - items.value)
    items = items.assign(value=error, truth=200.0, predicted=200 + error, unit="mm")
    items.drop(columns=["dice", "iou", "hd95_px"]).to_parquet(folder / "items.parquet")
    results = results.assign(kind="regression", metric="mae", value=100 * (1 - results.value))
    results["score_mae"] = results.value
    results.drop(columns=["score_dice", "score_iou", "score_hd95_px"]).to_parquet(folder / "results.parquet")
    page = " ".join(Page(write_sweep_report(folder, robustness=False)).text.split())
    assert "Target: mask_perimeter; it and its errors are in mm." in page
    assert "Less is better." in page
    assert "Below zero: the first of the two is better." in page
    assert set(pd.read_csv(folder / "tables" / "differences.csv").verdict) <= {"better", "open"}


def test_a_budget_is_called_the_same_where_it_is() -> None:
    def spent(**views: float) -> list[dict]:
        return [{"task": task, "trials": 2, "image_views": n} for name, n in views.items() for task in (name[0],)]

    assert _same_budget(spent(a1=32, a2=32, b1=64))
    assert not _same_budget(spent(a1=32, a2=64))
    assert not _same_budget(spent(a1=float("nan")))
