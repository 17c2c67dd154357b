"""The page of an evaluation for the kinds whose answers are numbers or images, from untrained networks."""

import base64
import inspect
import math
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from shard_factory import HEAD

from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.metrics.answers import Asking
from usfm.metrics.evaluation import evaluate
from usfm.models.bundle import BundleSpec
from usfm.models.encoder import EncoderConfig
from usfm.models.task_model import TaskModel
from usfm.models.windows import WindowConfig
from usfm.report.downstream.cases import draw_cases
from usfm.report.downstream.evaluation_page import Evaluated, write_evaluation
from usfm.report.downstream.robust import grid_of
from usfm.report.template import digits, pvalue, score, signed

ENCODER = EncoderConfig(size="nano", img_px=32, patch_px=8)
TASKS = {
    "regression": {"kind": "regression", "target": "mask_perimeter", "unit": "px"},
    "enhancement": {"kind": "enhancement", "degrade": {"chance": 1.0}},
    "multilabel": {"kind": "multilabel", "organs": ["heart"], "classes": {"bright": ["a"], "dark": ["b"]}},
}  # fmt: skip


@pytest.mark.parametrize("kind", TASKS)
def test_the_page_of_every_kind(kind: str, small_shards: Path, tmp_path: Path) -> None:
    task = TaskConfig.build({"name": "made", "organs": HEAD["organs"], "canvas_px": 64, **TASKS[kind]})
    data = load_task(str(small_shards), task)["test"]
    torch.manual_seed(0)
    model = TaskModel(ENCODER, task.kind, max(1, len(task.classes))).eval()
    result = evaluate(model, data, task, 32, torch.device("cpu"))
    spec = BundleSpec(
        kind=task.kind, name="made", classes=task.class_names, encoder=ENCODER, trained_on={"made": 3}
    )
    of = Evaluated(result, model, spec, task, data, "test", str(small_shards), WindowConfig(), None)
    page = write_evaluation(tmp_path, of).read_text()
    assert score(result.value) in page
    assert page.count("<svg") == {"regression": 1, "enhancement": 2, "multilabel": 1}[kind]
    assert ("share that is there over stated probability" in page) == (kind == "multilabel")
    each = 3 if kind == "enhancement" else 1  # input, answer, truth
    worst = page[page.index("<h3>Worst</h3>") :].split("<h3>")[1]
    assert worst.count("<img") == each * min(12, len(set(data.groups)))
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert items.id.tolist() == data.ids
    patients = pd.read_parquet(tmp_path / "patients.parquet")
    assert patients.group.tolist() == pd.read_csv(tmp_path / "patients.csv").group.tolist()
    assert "Not asked for" in page
    assert not list(tmp_path.glob("robustness.*"))
    assert "look through them before you share it" in page
    assert {"regression": "error", "enhancement": "psnr_input", "multilabel": "p_bright"}[kind] in items


def test_items_are_asked_again_as_the_evaluation_asked_for_them() -> None:
    ours, theirs = (inspect.signature(one).parameters for one in (Asking, evaluate))
    assert {name: ours[name].default for name in ("full", "mode", "overlap", "seed")} == {
        name: theirs[name].default for name in ("full", "mode", "overlap", "seed")
    }


def test_of_a_number_the_page_says_the_unit_and_that_errors_grow(small_shards: Path, tmp_path: Path) -> None:
    task = TaskConfig.build({"name": "made", "organs": HEAD["organs"], "canvas_px": 64, **TASKS["regression"]})
    data = load_task(str(small_shards), task)["test"]
    model = TaskModel(ENCODER, task.kind, 1).eval()
    result = evaluate(model, data, task, 32, torch.device("cpu"))
    metrics = {"fraction": 1.0, "labels_before": None, "sure": True}
    spec = BundleSpec(kind=task.kind, name="made", encoder=ENCODER, metrics=metrics)
    row = {"metric": "mae", "low": 1.0, "high": 3.0, "drop_low": 0.0, "drop_high": 2.0}
    clean = {**row, "corruption": "none", "severity": 0, "value": 2.0, "drop": 0.0}
    grid = grid_of([clean, {**row, "corruption": "gain", "severity": 1, "value": 3.0, "drop": 1.0}], 6, 3)
    of = Evaluated(result, model, spec, task, data, "test", str(small_shards), WindowConfig(), grid)
    page = " ".join(write_evaluation(tmp_path, of).read_text().split())
    told = [cell.split("</td>")[0].rpartition(">")[2] for cell in page.split('<th scope="row">')[-3:]]
    assert told == ["1.0", "not known", "yes"]
    assert "fine-tuned on" in page  # what the encoder was pre-trained on is not counted there
    assert "Target: mask_perimeter; it and its errors are in px." in page
    assert "the strongest where the error grows by a third or more" in page
    assert "of the score or more is lost" not in page


@pytest.mark.parametrize("mode", ["whole", "sliding"])
def test_a_restored_image_is_drawn_as_it_was_scored(mode: str, small_shards: Path) -> None:
    task = TaskConfig.build({"name": "made", "organs": HEAD["organs"], "canvas_px": 64, **TASKS["enhancement"]})
    data = load_task(str(small_shards), task)["test"]
    torch.manual_seed(0)
    model = TaskModel(ENCODER, task.kind, 1).eval()
    torch.nn.init.normal_(model.head.out.weight, std=0.1)  # an untrained one changes nothing
    windows = WindowConfig(mode=mode)
    scored = evaluate(model, data, task, 32, torch.device("cpu"), **windows.model_dump()).per_item
    for drawn in draw_cases(model, data, task, scored[:3], windows):
        pixels = [
            np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",")[1])))).astype(float) / 255
            for _, uri in drawn.pictures
        ]
        given, answer, truth = pixels
        number = data.ids.index(drawn.row_id)
        stored = (int(data.height[number]), int(data.width[number]))
        assert [image.shape for image in pixels] == [stored if mode == "sliding" else (32, 32)] * 3
        assert np.abs(answer - given).mean() > 0.02
        error = float(np.square(answer - truth).mean())
        assert 10 * math.log10(1 / error) == pytest.approx(drawn.value, abs=0.1)  # eight bits of a picture


def test_scores_have_digits_that_fit_their_size() -> None:
    assert [score(v) for v in (0.12345, -12.345, 123.45, None, math.nan)] == ["0.123", "−12.35", "123.5", "–", "–"]
    assert score(0.12345, -1) == "0.12"
    assert [digits(ends) for ends in ((0.0, 0.2), (0.0004, 0.029), (-0.0005, 0.1), (-9.8e-5, 1e-2))] == [3, 4, 3, 4]
    assert [digits(ends) for ends in ((math.nan, math.nan), (1e-12, 1.0))] == [3, 9]
    assert signed(0.0004, digits((0.0004, 0.029))) == "+0.0004"
    assert [pvalue(v) for v in (0.00099, 0.0214, 1.0)] == ["< 0.001", "0.021", "1.000"]
