import base64
import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from page_reading import Page
from shard_factory import HEAD, png, row, write_small_shards

from usfm.data.ledger import Ledger
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardIndex, write_index, write_shard
from usfm.data.stream import ImageStream
from usfm.errors import CheckpointError
from usfm.masking.dual import DualMask
from usfm.masking.frequency import band_masks
from usfm.report import overlays, panels
from usfm.report.page import ReportInputs, ServeSample, StageTime, build_report
from usfm.report.pictures import png_uri
from usfm.report.sections import shorten
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan
from usfm.train.rundir import open_run

EVIL = "<script>alert('quarantined')</script>"
TRIAL_COLUMNS = (
    "task",
    "kind",
    "init",
    "fraction",
    "seed",
    "train_items",
    "train_groups",
    "metric",
    "value",
    "status",
)
SECTIONS = {"data", "mix", "pretraining", "panels", "labels", "heads", "serving", "limits"}


class JobConfig(PretrainConfig):
    workers: int = 2


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """The small shards, an organ that only the training split has, a ledger and a quarantine table."""
    root = write_small_shards(tmp_path_factory.mktemp("report_shards"))
    rows = [{**row("lung", "train", n), "licence": "CC BY-NC 4.0"} for n in range(5)]
    lung = write_shard(root, "train/lung/00000.arrow", "train", "lung", pa.Table.from_pylist(rows, ROW_SCHEMA))
    write_index(root, "made", [*ShardIndex.load(root).files, lung])
    ledger = Ledger()
    for line in rows:
        ledger.add(line, 100)
    ledger.write(root)
    with (root / "quarantine.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["name", "source", "kind", "reason"], ["a.png", "made", "file", EVIL]])
    return root


@pytest.fixture(scope="module")
def run_dir(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report_run")
    config = JobConfig.build(
        {
            "run_dir": str(folder), "seed": 3, "epochs": 1, "epoch_samples": 32,
            "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 32}},
            "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
            "objective": {"spatial_mask": {"unit_px": 8}}, "batch": {"global_size": 8, "micro_size": 8},
        }
    )  # fmt: skip
    context = PlainContext(torch.device("cpu"))
    open_run(folder, config, PretrainPlan.derive(config, ImageStream(config.data, config.seed), 1).to_json())
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context))
    return folder


def write_tasks(sweep: Path, *tasks: dict) -> None:
    """The part of a sweep's config that the report reads."""
    (sweep / "config.yaml").write_text(yaml.safe_dump({"tasks": list(tasks)}), encoding="utf-8")


@pytest.fixture(scope="module")
def sweep_dir(shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report_sweep")
    config = FinetuneConfig.build(
        {
            "shards": str(shards), "run_dir": str(folder / "trial"), "task": {**HEAD, "canvas_px": 64},
            "encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 3, "batch_size": 8, "eval_every": 3,
        }
    )  # fmt: skip
    finetune(config, PlainContext(device=torch.device("cpu")))
    write_tasks(folder, {**HEAD, "canvas_px": 64})
    (folder / "best").mkdir()
    (folder / "trial" / "best").rename(folder / "best" / "head")
    (folder / "best" / "view").mkdir()
    items = [{"id": "x", "truth": "4CH", "predicted": "2CH", "probability": 0.9}]
    document = {"metric": "balanced_accuracy", "value": 0.7, "classes": ["2CH", "4CH"],
                "confusion": [[4, 1], [2, 3]], "per_item": items}  # fmt: skip
    (folder / "best" / "view" / "evaluation.json").write_text(json.dumps(document), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(TRIAL_COLUMNS)
        for init, value in (("pretrained", 0.7), ("scratch", 0.5)):
            for fraction in (0.05, 1.0):
                for seed in (0, 1):
                    score = value + 0.1 * seed + 0.1 * fraction
                    table.writerow(["head", "segmentation", init, fraction, seed, 9, 5, "dice", score, "ok"])
        table.writerow(["head", "segmentation", "scratch", 0.2, 0, "", "", "", "", "worker lost"])
    return folder


@pytest.fixture(scope="module")
def inputs(shards, run_dir, sweep_dir) -> ReportInputs:
    answer = {"mask_png": "A" * 5000, "top": {"name": "4CH"}}
    sample = ServeSample("http://127.0.0.1:8000/v1/segment", "a.png", 0.05, answer, png(np.eye(8, dtype=np.uint8)))
    stages = [StageTime("ingest", 3.0, "61 images"), StageTime("pretrain", 61.0, "4 steps")]
    return ReportInputs("A <run>", "made shards", shards, run_dir, sweep_dir, sample, stages, "usfm demo a=<b>")


def test_panels_match_the_dual_mask_of_their_index(run_dir) -> None:
    shown = panels.reconstruction_panels(run_dir)
    assert [panel.organ for panel in shown] == ["fetal_head", "heart", "kidney", "lung"]
    config = panels.run_config(run_dir)
    mask = DualMask(32, 8, config.objective.spatial_mask, config.objective.frequency_mask, config.seed)
    for panel in shown:
        made = mask(torch.from_numpy(panel.original)[None, None], torch.tensor([panel.index]))
        hidden = np.kron(made.tokens[0].numpy(), np.ones((8, 8), bool))
        assert np.array_equal(panel.hidden, hidden)
        assert np.allclose(panel.stopped, made.stopped[0, 0].numpy(), atol=1e-5)
        assert np.allclose(panel.masked, made.images[0, 0].numpy(), atol=1e-5)
        assert panel.bands == tuple(np.flatnonzero(made.bands[0].numpy()))


def test_composite_is_the_original_where_visible_and_the_answer_where_hidden(run_dir) -> None:
    for panel in panels.reconstruction_panels(run_dir, organs=2):
        assert 0 < panel.hidden.sum() < panel.hidden.size
        assert np.array_equal(panel.composite[~panel.hidden], panel.original[~panel.hidden])
        assert np.array_equal(panel.composite[panel.hidden], panel.reconstruction[panel.hidden])
        assert panel.error == pytest.approx(np.abs(panel.composite - panel.original)[panel.hidden].mean(), rel=1e-4)


def test_panels_are_deterministic_and_prefer_images_that_training_has_not_seen(run_dir) -> None:
    shown = panels.reconstruction_panels(run_dir)
    assert {panel.organ: (panel.split, panel.seen) for panel in shown} == {
        "fetal_head": ("val", False), "heart": ("val", False), "kidney": ("val", False), "lung": ("train", True),
    }  # fmt: skip
    again = panels.reconstruction_panels(run_dir)
    assert all(np.array_equal(a.reconstruction, b.reconstruction) for a, b in zip(shown, again, strict=True))
    # the organ that is seen in training goes last, then the one with the fewest rows
    assert [panel.organ for panel in panels.reconstruction_panels(run_dir, organs=2)] == ["fetal_head", "heart"]


def test_the_stopped_spectrum_is_empty_in_the_removed_bands(run_dir) -> None:
    panel = panels.reconstruction_panels(run_dir, organs=1)[0]
    config = panels.run_config(run_dir)
    mask = DualMask(32, 8, config.objective.spatial_mask, config.objective.frequency_mask, config.seed)
    removed = band_masks(32, mask.radii)[list(panel.bands)].any(dim=0).numpy()
    assert panel.spectrum[removed].mean() > 0.1
    assert panel.spectrum_stopped[removed].mean() < 0.5 * panel.spectrum[removed].mean()
    assert panel.spectrum_stopped[16, 16] == pytest.approx(panel.spectrum[16, 16], abs=0.02)  # DC is kept


def test_a_run_without_checkpoint_is_an_error(run_dir, tmp_path) -> None:
    (tmp_path / "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        panels.reconstruction_panels(tmp_path)


def test_worst_median_best() -> None:
    items = [{"id": str(k), "value": v} for k, v in enumerate((0.9, 0.1, 0.5, 0.7, 0.3, 0.6, 0.2))]
    chosen = [(rank, item["value"]) for rank, item in overlays.worst_median_best(items)]
    assert chosen == [
        ("worst", 0.1),
        ("worst", 0.2),
        ("median", 0.3),
        ("median", 0.5),
        ("best", 0.7),
        ("best", 0.9),
    ]
    assert [rank for rank, _ in overlays.worst_median_best(items[:3])] == ["worst", "worst", "best"]
    assert [rank for rank, _ in overlays.worst_median_best(items[:1])] == ["worst"]
    assert overlays.worst_median_best([]) == []


def test_contours_repeat_the_evaluation(sweep_dir, shards) -> None:
    bundle = sweep_dir / "best" / "head"
    items = json.loads((bundle / "evaluation.json").read_text())["per_item"]
    drawn = overlays.contours(bundle, shards, [*items, {"id": "not there", "value": -1.0}], canvas_px=64)
    assert len(drawn) == 5  # six are chosen; the one that no shard holds is left out
    for picture in drawn:
        assert picture.redrawn == pytest.approx(picture.value, abs=1e-6)
    # a task in folds tests rows of every split
    elsewhere = [{"id": row("fetal_head", "train", n)["id"], "value": 0.5} for n in (0, 23)]
    drawn = overlays.contours(bundle, shards, elsewhere, canvas_px=64)
    assert {picture.row_id for picture in drawn} == {item["id"] for item in elsewhere}


def test_only_shards_of_the_items_own_organs_are_read(sweep_dir, shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of all organs are many; one item that none of them holds must not lead through all."""
    read: list[str] = []

    def batch(reader: ShardReader, path: str) -> pa.RecordBatch:
        read.append(path)
        return whole(reader, path)

    whole = ShardReader.batch
    monkeypatch.setattr(ShardReader, "batch", batch)
    bundle = sweep_dir / "best" / "head"
    items = json.loads((bundle / "evaluation.json").read_text())["per_item"]
    gone = {"id": "not there", "value": -1.0, "organ": "fetal_head"}
    assert len(overlays.contours(bundle, shards, [*items, gone], canvas_px=64)) == 5
    assert {Path(path).parent.name for path in read} == {"fetal_head"}


def test_outlines_lie_on_the_borders() -> None:
    truth, predicted = (np.zeros((100, 80), np.uint8) for _ in range(2))
    truth[20:40, 20:40], predicted[60:80, 30:60] = 1, 1
    picture = overlays.draw_contours(np.zeros((100, 80), np.uint8), truth, predicted)
    assert picture.shape == (400, 320, 3)
    for mask, colour in ((truth, overlays.TRUTH_RGB), (predicted, overlays.PREDICTED_RGB)):
        for drawn, filled in zip(np.nonzero((picture == colour).all(axis=2)), np.nonzero(mask), strict=True):
            # four pixels of the picture for one of the mask, and a line of two pixels
            assert abs(drawn.min() - 4 * filled.min()) <= 3
            assert abs(drawn.max() - 4 * (filled.max() + 1)) <= 3


def test_a_full_report_has_every_section_and_loads_nothing(inputs, tmp_path) -> None:
    page = Page(build_report(inputs, tmp_path / "deep" / "report.html"))
    assert page.sections() == SECTIONS
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "object", "base", "form"}]
    for tag, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if name in attrs:
                assert attrs[name].startswith(("data:image/", "#")), f"{tag} loads {attrs[name]}"
        assert not [name for name in attrs if name.startswith("on")]
    anchors = {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"}
    assert anchors == SECTIONS
    text = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")


def test_every_reference_inside_the_page_has_its_target_once(inputs, tmp_path) -> None:
    page = Page(build_report(inputs, tmp_path / "report.html"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = {attrs["href"][1:] for _, attrs in page.tags if "href" in attrs}
    used |= {attrs["clip-path"][5:-1] for _, attrs in page.tags if "clip-path" in attrs}
    assert used <= set(ids)


def test_numbers_of_the_page(inputs, tmp_path) -> None:
    text = " ".join(Page(build_report(inputs, tmp_path / "report.html")).text.split())
    assert "seen in training" in text  # the organ without held-out images
    assert "2 seeds; no interval" in text
    assert "9 trials, of which 1 gave no score" in text
    assert "worker lost" in text
    assert "+0.200 2 of 2" in text  # pretrained minus scratch, paired by seed
    assert "4 80.0 %" in text  # the confusion matrix: 4 of 5
    assert "No overlays" not in text
    assert "5 of the stored images are under non-commercial terms" in text
    assert "together 64.0 s" in text


def test_seeds_of_a_task_in_folds_are_not_said_to_share_a_test_set(inputs, tmp_path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(inputs.sweep_dir, sweep)
    write_tasks(sweep, {**HEAD, "canvas_px": 64, "split_by": "folds", "folds": 5})
    spec = sweep / "best" / "head" / "config.json"
    document = json.loads(spec.read_text())
    document["metrics"]["fold"] = 3
    spec.write_text(json.dumps(document))

    def said(of: ReportInputs) -> str:
        return " ".join(Page(build_report(of, tmp_path / "report.html")).text.split())

    alone, dealt = said(inputs), said(replace(inputs, sweep_dir=sweep))
    assert "All trials share one test set" in alone
    assert "Dice on the test set" in alone
    assert "fold" not in alone
    assert "All trials share" not in dealt
    assert "all trials of seed s are tested on fold s mod 5" in dealt
    assert "scored on the same test images, in folds seed by seed" in dealt
    assert "Dice on the fold that each seed tests" in dealt
    assert "Dice, fold 3, which its seed tests" in dealt


def test_a_sweep_without_its_config_keeps_its_label_section(inputs, tmp_path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(inputs.sweep_dir, sweep)
    (sweep / "config.yaml").unlink()
    text = " ".join(Page(build_report(replace(inputs, sweep_dir=sweep), tmp_path / "report.html")).text.split())
    assert "9 trials, of which 1 gave no score" in text
    assert "Whether all trials share one test set is not known: the sweep's config.yaml is missing" in text
    assert "All trials share" not in text


def test_content_is_inert(inputs, tmp_path) -> None:
    path = build_report(inputs, tmp_path / "report.html")
    assert EVIL not in path.read_text(encoding="utf-8")
    page = Page(path)
    assert EVIL in page.text  # it is shown, as text
    assert "usfm demo a=<b>" in page.text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        (lambda inputs, empty: replace(inputs, serve=None), {"serving"}),
        (lambda inputs, empty: replace(inputs, sweep_dir=None), {"labels", "heads"}),
        (lambda inputs, empty: replace(inputs, sweep_dir=empty, serve=None), {"labels", "heads", "serving"}),
        (lambda inputs, empty: replace(inputs, pretrain_run=empty), {"mix", "pretraining", "panels"}),
        (lambda inputs, empty: replace(inputs, shards=empty), {"data", "panels"}),
    ],
)
def test_what_is_absent_is_left_out_and_named(
    inputs, tmp_path, change: Callable[[ReportInputs, Path], ReportInputs], gone: set[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    page = Page(build_report(change(inputs, empty), tmp_path / "report.html"))
    assert page.sections() == SECTIONS - gone
    assert page.text.count("Left out: ") == len(gone)


@pytest.mark.parametrize(
    ("metric", "values", "worst_first", "favour", "bounded"),
    [
        ("mae", [2.5, 31.0, 7.25], "31.00 – 2.500 Absolute error", "2 of 2", False),
        ("psnr", [21.5, 30.25, 25.0], "21.50 – 30.25 PSNR in dB", "0 of 2", False),
        ("auroc", [0.5, 1.0, 0.75], "0.500 – 1.000 Share of labels right", "0 of 2", True),
    ],
)
def test_scores_of_every_kind_have_their_name_direction_and_range(
    tmp_path, metric: str, values: list[float], worst_first: str, favour: str, bounded: bool
) -> None:
    sweep = tmp_path / "a sweep"
    (sweep / "best" / "task").mkdir(parents=True)
    document = {"metric": metric, "value": values[0], "classes": [], "confusion": [],
                "per_item": [{"id": str(n), "value": value} for n, value in enumerate(values)]}  # fmt: skip
    (sweep / "best" / "task" / "evaluation.json").write_text(json.dumps(document), encoding="utf-8")
    (sweep / "report.html").write_text("the sweep's page", encoding="utf-8")
    write_tasks(sweep, {"name": "task"})
    lines = [["task", "kind", init, 1.0, seed, 9, 5, metric, value, "ok"]
             for init, value in (("pretrained", 3), ("scratch", 5)) for seed in (0, 1)]  # fmt: skip
    with (sweep / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([TRIAL_COLUMNS, *lines])
    nothing = tmp_path / "nothing"
    inputs = ReportInputs("title", "note", nothing, nothing, sweep, None, [], "usfm demo")
    page = Page(build_report(inputs, tmp_path / "report.html"))
    text = " ".join(page.text.split())
    assert page.sections() == {"labels", "heads", "limits"}
    assert worst_first in text
    assert f"−2.000 {favour}" in text  # pretrained minus scratch: better where less is better
    assert ("on the test set, in [0, 1]" in text) == bounded
    assert ("less is better" in text) == (metric == "mae")
    assert "No overlays" not in text  # only masks have some
    assert "a%20sweep/report.html" in {attrs.get("href") for tag, attrs in page.tags if tag == "a"}


def test_long_values_are_cut_with_their_length() -> None:
    cut = shorten({"mask_png": "B" * 100, "short": "x", "list": list(range(20)), "n": 1.5})
    assert cut["mask_png"] == "B" * 36 + "… (100 characters)"
    assert cut["list"][-1] == "… (20 values)"
    assert (cut["short"], cut["n"], len(cut["list"])) == ("x", 1.5, 13)


def test_pictures_survive_their_uri() -> None:
    grey = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    data = base64.b64decode(png_uri(grey).removeprefix("data:image/png;base64,"))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.abs(decoded / 255 - grey).max() <= 0.5 / 255 + 1e-6
