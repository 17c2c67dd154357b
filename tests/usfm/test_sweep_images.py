"""What the page of a sweep shows of the images, by which of the bundles that the sweep kept."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from page_reading import Page
from sweep_factory import TASKS, write_sweep

from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_folds, load_split, load_task
from usfm.report.downstream.sweep_page import write_sweep_report
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import open_run

FOLDS = TaskConfig.build({**TASKS["view"], "split_by": "folds", "folds": 3})


@pytest.fixture(scope="module")
def runs(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trials/` of a sweep with one run of each task."""
    folder = tmp_path_factory.mktemp("runs")
    for name, task in TASKS.items():
        config = FinetuneConfig.build({
            "run_dir": str(folder / f"{name}-scratch-1-0"), "shards": str(small_shards), "task": task,
            "encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 2, "batch_size": 8, "eval_every": 2,
        })  # fmt: skip
        open_run(Path(config.run_dir), config, {})
        finetune(config, PlainContext(device=torch.device("cpu")))
    return folder


def keep_only(folder: Path, runs: Path, scores: Callable[[pd.Series], float], *kept: str) -> None:
    """A sweep whose trials have these validation scores and that kept the bundles of some of them."""
    results = pd.read_parquet(folder / "results.parquet")
    names = results.bundle.str.split("/").str[1]
    results["val_value"] = results.apply(scores, axis=1)
    results["bundle"] = results.bundle.where(names.isin(kept), "")
    results.to_parquet(folder / "results.parquet")
    for name in kept:
        shutil.copytree(runs / "view-scratch-1-0", folder / "trials" / name)


def write_folds(folder: Path, shards: Path, seeds: Mapping[str, tuple[int, ...]]) -> None:
    """A sweep of the view in three folds; of each initialisation these seeds came to their end."""
    every, _ = load_folds(str(shards), FOLDS)
    write_sweep(folder, tasks=("view",), inits=tuple(seeds), fractions=(1.0,), seeds=range(6), shards=shards,
                ids={"view": list(every.ids)})  # fmt: skip
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "tasks": [FOLDS.model_dump(mode="json")]}))
    tested = {s: set(load_split(str(shards), FOLDS.of_seed(s), "test").ids) for s in range(6)}
    items, results = pd.read_parquet(folder / "items.parquet"), pd.read_parquet(folder / "results.parquet")
    ended = items.apply(lambda row: row.seed in seeds[row.init] and row.id in tested[row.seed], axis=1)
    items["split"] = items.id.str.extract(r"/(\w+)_\d+\.png")[0]
    items[ended].to_parquet(folder / "items.parquet")
    results.loc[~results.apply(lambda row: row.seed in seeds[row.init], axis=1), "status"] = "out of memory"
    results.to_parquet(folder / "results.parquet")


def shown(folder: Path) -> dict[str, int]:
    """Seed of the run whose images are shown, by initialisation."""
    table = pd.read_csv(folder / "tables" / "robustness.csv")
    assert (table.groupby("init").seed.nunique() == 1).all()
    return table.groupby("init").seed.first().to_dict()


def captions(page: Page) -> str:
    text = " ".join(page.text.split())
    return text[text.index("Robustness ") : text.index("Cost Seconds")]


def test_worst_cases_and_robustness_come_from_the_kept_bundles(
    small_shards: Path, tmp_path: Path, runs: Path
) -> None:
    ids = {name: load_task(str(small_shards), TaskConfig.build(task))["test"].ids for name, task in TASKS.items()}
    shutil.copytree(runs, tmp_path / "trials")
    write_sweep(tmp_path, inits=("scratch",), fractions=(1.0,), seeds=(0,), shards=small_shards, ids=ids)
    page = Page(write_sweep_report(tmp_path))
    assert "Left out" not in page.text
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    items = pd.read_parquet(tmp_path / "items.parquet")
    assert len(pictures) == sum(min(8, of_task.group.nunique()) for _, of_task in items.groupby("task"))
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in pictures)
    robustness = pd.read_csv(tmp_path / "tables" / "robustness.csv")
    assert len(robustness) == 2 * 19
    counts = items.groupby("task").agg(images=("id", "nunique"), patients=("group", "nunique"))
    for of_task in counts.itertuples():
        assert f"Each cell rests on {of_task.images} images of {of_task.patients} patients." in captions(page)
    assert captions(page).count("look through them before you share it") == 2
    cost = pd.read_csv(tmp_path / "tables" / "cost.csv")
    assert cost.image_views.tolist() == [16, 16]  # two steps of eight
    assert "at the same budget of images" in page.text


def test_of_equal_scores_the_bundle_that_was_kept_is_shown(small_shards: Path, tmp_path: Path, runs: Path) -> None:
    ids = {"view": load_task(str(small_shards), TaskConfig.build(TASKS["view"]))["test"].ids}
    write_sweep(tmp_path, ("view",), ("scratch",), (1.0,), seeds=(9, 10), shards=small_shards, ids=ids)
    keep_only(tmp_path, runs, lambda row: 0.7, "view-scratch-1-10")  # the first name, in the second row
    page = Page(write_sweep_report(tmp_path))
    assert "Left out" not in page.text
    assert shown(tmp_path) == {"scratch": 10}
    assert "the one with the best validation score of its seeds" in captions(page)
    assert "Worst cases" in captions(page)
    # with keep=all the same one, by the rule alone
    results = pd.read_parquet(tmp_path / "results.parquet")
    results["bundle"] = [f"trials/view-scratch-1-{seed}/best" for seed in results.seed]
    results.to_parquet(tmp_path / "results.parquet")
    shutil.copytree(runs / "view-scratch-1-0", tmp_path / "trials" / "view-scratch-1-9")
    write_sweep_report(tmp_path)
    assert shown(tmp_path) == {"scratch": 10}


def test_in_folds_all_starts_are_shown_on_the_patients_of_one_fold(
    small_shards: Path, tmp_path: Path, runs: Path
) -> None:
    write_folds(tmp_path, small_shards, {"dual": (0, 1, 2, 3), "scratch": (0, 1, 2)})
    kept = [f"view-{init}-1-{seed}" for init in ("dual", "scratch") for seed in range(3)]  # keep=all
    # scores of other folds are on other patients; of fold 0 the better one is shown
    keep_only(tmp_path, runs, lambda row: [0.5, 0.9, 0.8, 0.6][row.seed % 4], *kept, "view-dual-1-3")
    page = Page(write_sweep_report(tmp_path))
    assert shown(tmp_path) == {"dual": 3, "scratch": 0}
    said = captions(page)
    assert "on the patients of fold 0, which all of these starts tested" in said
    assert "one per patient, on the patients of fold 0, by the run that tested them" in said
    assert "best validation score" not in said
    worst = pd.read_csv(tmp_path / "tables" / "worst.csv")
    assert set(worst.id) <= set(load_split(str(small_shards), FOLDS, "test").ids)


def test_starts_that_are_shown_on_different_folds_are_said_to_be(
    small_shards: Path, tmp_path: Path, runs: Path
) -> None:
    write_folds(tmp_path, small_shards, {"dual": (1, 2), "scratch": (0, 1, 2)})
    keep_only(tmp_path, runs, lambda row: 0.7, "view-dual-1-1", "view-scratch-1-0")
    page = Page(write_sweep_report(tmp_path))
    assert shown(tmp_path) == {"dual": 1, "scratch": 0}
    said = captions(page)
    assert "not every start has a run of fold 0 that was kept (dual: fold 1, scratch: fold 0)" in said
    assert "one per patient, on the patients of fold 1, by the run that tested them" in said
