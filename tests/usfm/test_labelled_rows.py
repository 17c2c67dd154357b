"""What a task takes of its rows, what it leaves out and counts, and what it refuses with the row's name."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from shard_factory import HEAD, VIEW, png, row, write_rows

from usfm.data.fractions import strata
from usfm.data.labelled_rows import choose_labelled
from usfm.data.left_out import left_out, left_out_text
from usfm.data.mask_measures import ellipse_perimeter, foreground_area
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import ConfigError, DataError

FINDINGS = {"name": "findings", "kind": "multilabel", "organs": ["heart"],
            "classes": {"fluid": ["effusion", "ascites"], "mass": ["tumour"]}}  # fmt: skip
LENGTH = {"name": "length", "kind": "regression", "organs": ["heart"], "target": "HC_mm", "unit": "mm"}


def task_of(base: dict, **values) -> TaskConfig:
    return TaskConfig.build({**base, "canvas_px": 64, **values})


def hearts(*labels: str, split: str = "train") -> list[dict]:
    return [{**row("heart", split, n), "label": label} for n, label in enumerate(labels)]


def chosen(rows: list[dict], task: TaskConfig) -> tuple[list, dict[str, int]]:
    return choose_labelled(rows, task, task.sources)


def test_a_label_of_no_class_is_refused_with_its_row_or_left_out_and_counted() -> None:
    rows = hearts("a", "b", "malignnt", "", "malignnt")
    said = (
        "task view: row made/heart/train_002.png#0 says 'malignnt': label 'malignnt' is of no class; "
        "expected a label that a class lists (bright: 'a'; dark: 'b'). Mend it and ingest again, list it under a "
        "class, name the `sources` that are meant, or give the task `unlisted: leave_out`"
    )
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        chosen(rows, task_of(VIEW))
    with pytest.raises(DataError, match=r"row made/heart/train_001.png#0 says '': label '' is of no class"):
        chosen(hearts("a", "", "b"), task_of(VIEW))
    taken, count_of = chosen(rows, task_of(VIEW, unlisted="leave_out"))
    assert [one.label for one in taken] == [0, 1]
    assert count_of == {"label '' is of no class": 1, "label 'malignnt' is of no class": 2}


def test_what_is_left_out_is_said_once_for_a_task_in_folds_and_for_each_split_else(tmp_path: Path) -> None:
    rows = [r for split in ("train", "val", "test") for r in hearts("a", "a", "b", "b", "c", split=split)]
    rows[0]["label"] = "d"
    shards = str(write_rows(tmp_path, rows))
    splits = task_of(VIEW, unlisted="leave_out")
    of_splits = left_out(load_task(shards, splits), splits)
    one = "label 'c' is of no class"
    assert of_splits == {"train": {one: 1, "label 'd' is of no class": 1}, "val": {one: 1}, "test": {one: 1}}
    folds = task_of(VIEW, unlisted="leave_out", split_by="folds", folds=3)
    in_folds = left_out(load_task(shards, folds), folds)
    assert in_folds == {"all": {one: 3, "label 'd' is of no class": 1}}
    said = "label 'c' is of no class (3 rows); label 'd' is of no class (1 row)"
    assert left_out_text(of_splits) == left_out_text(in_folds) == said
    named = task_of(VIEW, classes={"x": ["a", "d"], "y": ["b", "c"]})
    assert left_out(load_task(shards, named), named) == {}
    assert left_out_text({}) == ""
    many = {f"label {n} is of no class": 1 + (n == 3) for n in range(8)}
    assert left_out_text({"all": many}).startswith("label 3 is of no class (2 rows); label 0 ")
    assert left_out_text({"all": many}).endswith("; 3 further reasons (3 rows)")


def test_a_row_without_its_mask_is_refused_with_its_name_or_left_out() -> None:
    rows = [row("fetal_head", "train", n) for n in range(3)]
    rows[1] |= {"mask": None, "mask_classes": ""}
    with pytest.raises(DataError, match=r"row made/fetal_head/train_001.png#0 has no mask; .*missing=leave_out"):
        chosen(rows, task_of(HEAD))
    taken, count_of = chosen(rows, task_of(HEAD, missing="leave_out"))
    assert ([one.row["id"][-7:-6] for one in taken], count_of) == (["0", "2"], {"no mask": 1})
    measured = task_of(LENGTH, organs=["fetal_head"], target="mask_area", unit="px2")
    with pytest.raises(DataError, match="train_001.png#0 has no mask"):
        chosen(rows, measured)


def test_a_mask_class_that_no_class_names_is_background_or_refused() -> None:
    rows = [{**row("fetal_head", "train", 0), "mask_classes": json.dumps({"1": "fetal haed"})}]
    task = task_of(HEAD, classes={"head": ["head"]}, unlisted="leave_out")
    taken, count_of = chosen(rows, task)
    assert not taken[0].mask.any()
    assert count_of == {"its mask has 'fetal haed', which no class names": 1}
    with pytest.raises(
        DataError,
        match=r"train_000.png#0: its mask has 'fetal haed', which no class names; expected a mask class .*'head'",
    ):
        chosen(rows, task_of(HEAD, classes={"head": ["head"]}))
    assert chosen(rows, task_of(HEAD))[0][0].mask.any()  # "*" names every class
    for names in ("", json.dumps({"2": "head"})):
        with pytest.raises(DataError, match=r"train_000.png#0 has a mask with the value 1, which .* do not name"):
            chosen([rows[0] | {"mask_classes": names}], task_of(HEAD))


def test_several_labels_of_a_row() -> None:
    rows = hearts("tumour", "ascites; tumour", "normal", "effusion;ascites", "")
    taken, count_of = chosen(rows, task_of(FINDINGS, unlisted="leave_out"))
    assert [one.target for one in taken] == [[0, 1], [1, 1], [0, 0], [1, 0]]
    assert count_of == {"label 'normal' is of no class": 1, "no label": 1}
    with pytest.raises(DataError, match="train_002.png#0 says 'normal'"):
        chosen(rows, task_of(FINDINGS))
    with pytest.raises(DataError, match="train_001.png#0 says ' ; ': no label"):
        chosen(hearts("tumour", " ; "), task_of(FINDINGS))


@pytest.mark.parametrize("text", ["HC_mm=fourty", "HC_mm=", "HC_mm=nan", "age=3; HC_mm=1,5"])
def test_a_number_that_cannot_be_read_is_refused_with_its_row(text: str) -> None:
    with pytest.raises(DataError, match=r"row made/heart/train_001.png#0 says .*is not a number"):
        chosen(hearts("HC_mm=44.3", text), task_of(LENGTH))


def test_numbers_are_read_from_labels_and_from_masks() -> None:
    rows = hearts("HC_mm=44.3", "age=3; HC_mm = 51", "age=3")
    with pytest.raises(DataError, match="train_002.png#0 says 'age=3': no HC_mm=; expected HC_mm=NUMBER"):
        chosen(rows, task_of(LENGTH))
    taken, count_of = chosen(rows, task_of(LENGTH, unlisted="leave_out"))
    assert ([one.target for one in taken], count_of) == ([[44.3], [51.0]], {"no HC_mm=": 1})
    disc = np.zeros((64, 64), np.uint8)
    cv2.circle(disc, (30, 30), 20, 1, -1)
    rows = [{**row("fetal_head", "train", 0), "mask": png(disc), "spacing_mm": 0.5}]
    area = chosen(rows, task_of(LENGTH, organs=["fetal_head"], target="mask_area", unit="mm2"))[0][0].target[0]
    assert area == foreground_area(disc) * 0.25
    length = chosen(rows, task_of(LENGTH, organs=["fetal_head"], target="mask_perimeter"))[0][0].target[0]
    assert length == pytest.approx(2 * np.pi * 20 * 0.5, rel=0.01)
    rows[0]["spacing_mm"] = None
    with pytest.raises(DataError, match=r"has no spacing_mm \(the size of a pixel\)"):
        chosen(rows, task_of(LENGTH, organs=["fetal_head"], target="mask_perimeter"))
    rows[0] |= {"mask": png(np.zeros_like(disc)), "spacing_mm": 0.5}
    with pytest.raises(DataError, match="has no outline in its mask, so no mask_perimeter"):
        chosen(rows, task_of(LENGTH, organs=["fetal_head"], target="mask_perimeter"))


def test_the_perimeter_of_drawn_ellipses() -> None:
    """Oracle: numerical length of the curve; a pixel belongs to the region if its centre does."""
    y, x = np.mgrid[:140, :140]
    angles = np.linspace(0, 2 * np.pi, 20001)
    errors = []
    for a, b, tilt in ((55, 30, 0.3), (40, 39, 1.1), (60, 20, 2.0), (12, 9, 0.0), (25, 8, 0.7)):
        u = (x - 70.3) * np.cos(tilt) + (y - 69.6) * np.sin(tilt)
        v = (y - 69.6) * np.cos(tilt) - (x - 70.3) * np.sin(tilt)
        length = np.hypot(np.diff(a * np.cos(angles)), np.diff(b * np.sin(angles))).sum()
        errors.append(ellipse_perimeter((u / a) ** 2 + (v / b) ** 2 <= 1) / length - 1)
    assert np.abs(errors).max() < 0.01
    assert abs(np.mean(errors)) < 0.003
    corner = ((x < 20) | (y > 120)) & (x < 120) & (y > 20)
    assert ellipse_perimeter(corner) < 4 * 120, "a ragged region's ellipse is not larger than the box around it"
    speck = np.zeros((9, 9), bool)
    assert ellipse_perimeter(speck) == 0
    speck[4, 4] = True
    assert ellipse_perimeter(speck) == 0


def test_pairs_are_read_and_asked_for_only_without_a_degradation(tmp_path: Path) -> None:
    made = {"name": "clean", "kind": "enhancement", "organs": ["heart"]}
    rows = [r for split in ("train", "val", "test") for r in hearts("a", "b", split=split)]
    with pytest.raises(DataError, match="train_000.png#0 has no pair"):
        load_task(str(write_rows(tmp_path / "none", rows)), task_of(made))
    synthetic = load_task(str(tmp_path / "none"), task_of(made, degrade={}))["train"]
    assert (synthetic.pair.shape, synthetic.target.shape) == ((0, 64, 64), (2, 0))
    for one in rows:
        one["pair"] = png(np.full((one["height"], one["width"]), 77, np.uint8))
    real = load_task(str(write_rows(tmp_path / "real", rows)), task_of(made))["train"]
    assert real.pair.shape == (2, 64, 64)
    assert (real.pair[0, : real.height[0], : real.width[0]] == 77).all()
    assert (real.organs, real.sources) == (["heart"] * 2, ["made"] * 2)


def test_sources_are_kept_apart_across_them(tmp_path: Path) -> None:
    rows = []
    for split in ("train", "val", "test"):
        for n, one in enumerate(hearts(*"abab", split=split)):
            source = "home" if n < 2 else "away"
            rows.append({**one, "source": source, "id": f"{source}/{split}{n}"})
    crossed = task_of(VIEW, split_by="source", train_sources=["home"], test_sources=["away"])
    sets = load_task(str(write_rows(tmp_path, rows)), crossed)
    assert {split: set(data.sources) for split, data in sets.items()} == {
        "train": {"home"},
        "val": {"home"},
        "test": {"away"},
    }
    assert sorted(sets["test"].ids) == sorted(f"away/{s}{n}" for s in ("train", "val", "test") for n in (2, 3))
    assert sets["train"].ids == ["home/train0", "home/train1"]


def test_a_class_that_no_or_every_training_row_has_is_refused(tmp_path: Path) -> None:
    rows = [r for split in ("train", "val", "test") for r in hearts("tumour", "tumour; x", split=split)]
    shards = str(write_rows(tmp_path, rows))
    with pytest.raises(DataError, match="class 'fluid' has no training rows in"):
        load_task(shards, task_of(FINDINGS, unlisted="leave_out"))
    with pytest.raises(DataError, match="class 'mass' has no training rows without it"):
        load_task(shards, task_of(FINDINGS, classes={"x": ["x"], "mass": ["tumour"]}))
    alone = task_of(FINDINGS, classes={"x": ["x"]}, unlisted="leave_out")
    assert strata(load_task(shards, alone)["train"], alone) == ["0", "1"]


def test_labels_that_no_score_can_be_made_of_are_refused_before_training(tmp_path: Path) -> None:
    for same in ("val", "test"):
        rows = []
        for split in ("train", "val", "test"):
            rows += hearts("tumour", "tumour" if split == same else "effusion", split=split)
        with pytest.raises(DataError, match=rf"none of .* has {same} rows .* both with and without it"):
            load_task(str(write_rows(tmp_path / same, rows)), task_of(FINDINGS))


@pytest.mark.parametrize(
    "classes", [{"all": ["*"], "head": ["head"]}, {"all": ["*", "head"]}, {"background": ["head"]}]
)
def test_mask_classes_that_cannot_be_are_refused(classes: dict) -> None:
    with pytest.raises(ConfigError, match="has to stand alone|comes by itself"):
        task_of(HEAD, classes=classes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": {"a": ["x"], "b": []}}, "class 'b' lists no labels"),
        ({"classes": {"a": ["x"], "b": ["y", "x"]}}, "label 'x' is listed by 'a' and 'b'"),
        ({"kind": "regression"}, "a regression task has no classes"),
        ({"kind": "regression", "classes": {}}, "needs one: the NAME of labels like NAME=12.5"),
        ({"target": "HC_mm"}, "regression alone has a target"),
        ({"kind": "regression", "classes": {}, "target": "mask_area", "unit": "mm"}, "has to be one of mm2, px2"),
        ({"scales_with_size": True}, "scales_with_size is for regression tasks"),
        ({"degrade": {}}, "degrade is for enhancement tasks"),
        ({"split_by": "source", "train_sources": ["a"]}, "needs train_sources and test_sources"),
        ({"test_sources": ["a"]}, "are for split_by=source"),
        ({"organs": []}, "organs"),
    ],
)
def test_tasks_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_of(VIEW, **values)


def test_lengths_are_shares_of_the_view() -> None:
    scaled = task_of(LENGTH, scales_with_size=True)
    assert scaled.view_scale(100.0, 0.5) == 50.0
    assert task_of(LENGTH).view_scale(100.0, 0.5) == 1.0
    in_px = task_of(LENGTH, target="mask_perimeter", unit="px", scales_with_size=True)
    assert (in_px.view_scale(100.0, float("nan")), in_px.needs_spacing) == (100.0, False)
