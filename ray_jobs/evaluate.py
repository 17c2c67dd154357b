"""Evaluate: score a fine-tuned head, `usfm evaluate runs/finetune_fetal_head`; on other images with `shards=`.

Writes evaluation.json, the tables items, patients and robustness (.csv and .parquet), and report.html.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.data.labelled_set import LabelledSet
from usfm.data.left_out import left_out_line
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_split
from usfm.data.trained_fold import TrainedFold
from usfm.errors import ConfigError
from usfm.metrics.evaluation import evaluate
from usfm.models.bundle import is_bundle, load_bundle, read_bundle_spec
from usfm.models.windows import WindowMode
from usfm.report.downstream.evaluation_page import Evaluated, write_evaluation
from usfm.report.downstream.robust import PASSES, robust_grid
from usfm.train.context import best_device
from usfm.train.rundir import read_config

__all__ = ["EvaluateConfig", "main", "plan", "run"]


class EvaluateConfig(Config):
    """What to score on what.

    Attributes:
        model: a fine-tuning run, whose best bundle is used, or a bundle.
        shards: folder of shards; None = those that it was trained from.
        split: split to score on; "all" for a set that was never trained on. Of a task in folds "test" is the fold
            that the bundle was kept from; other shards, `sources` and shards with other rows do not have it.
        sources: score on rows of these sources alone; None = those of the task.
        task: the task; None = the one that the bundle was trained for, as the run or sweep around it says.
        unlisted: what becomes of rows whose label no class names (`TaskConfig.unlisted`), on other shards, say;
            None = as the task says.
        mode: whole images or sliding windows (`usfm.models.windows`); None = as the bundle says.
        robustness: score on images made worse too: 18 more passes.
        output: folder of the results; None = `evaluation-<split>` in the run or the bundle.
    """

    model: str = "runs/finetune_fetal_head"
    shards: str | None = None
    split: Literal["train", "val", "test", "all"] = "test"
    sources: list[str] | None = None
    task: TaskConfig | None = None
    unlisted: Literal["leave_out", "refuse"] | None = None
    mode: WindowMode | None = None
    robustness: bool = True
    output: str | None = None

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.output) if self.output else Path(self.model) / f"evaluation-{self.split}"

    @property
    def bundle(self) -> Path:
        """The bundle itself."""
        return Path(self.model) if is_bundle(Path(self.model)) else Path(self.model) / "best"


@dataclass(frozen=True)
class _Inputs:
    """What is scored: as the config says, else as the run (`RUN/best`) or sweep (`SWEEP/best/TASK`) around it."""

    task: TaskConfig
    shards: str
    data: LabelledSet

    @classmethod
    def of(cls, config: EvaluateConfig) -> "_Inputs":
        spec, task, values = read_bundle_spec(config.bundle), config.task, _around(config.bundle)
        stated = [values["task"]] if "task" in values else values.get("tasks", [])
        task = task or next((TaskConfig.build(of) for of in stated if of["name"] == spec.name), None)
        shards = config.shards or values.get("shards")
        if task is None or shards is None:
            lacks = "task" if task is None else "shards"
            raise ConfigError(
                f"no fine-tuning run or sweep around {config.bundle} says which {lacks} it is for; give {lacks}=..."
            )
        if config.unlisted is not None:
            task = task.model_copy(update={"unlisted": config.unlisted})
        trained = TrainedFold.of(config.bundle, spec.metrics, values.get("shards"))
        if task.split_by == "folds" and trained.fold is not None:  # a sweep states its tasks without a fold
            task = task.model_copy(update={"fold": trained.fold})
        if config.split != "all":
            trained.require_unseen(task, shards, config.split, config.sources)
        if config.sources is not None:
            split = {"split_by": "split", "train_sources": [], "test_sources": [], "folds": 5, "fold": 0}
            task = task.model_copy(update={"sources": config.sources, **split})
        return cls(task, shards, load_split(shards, task, config.split))


def _around(bundle: Path) -> dict[str, Any]:
    """The config of the run or sweep that a bundle lies in, {} where there is none."""
    for folder in (bundle.parent, bundle.parent.parent):
        if (folder / "config.yaml").is_file():
            return read_config(folder)
    return {}


def plan(config: EvaluateConfig) -> dict[str, Any]:
    """What would be scored."""
    of = _Inputs.of(config)
    return {"task": of.task.name, "shards": of.shards, "items": len(of.data),
            "left_out": of.data.left_out, "output": str(config.folder)}  # fmt: skip


def run(config: EvaluateConfig, console: Console) -> Path:
    """Score, write tables and page, print the scores; returns the folder."""
    of, device = _Inputs.of(config), best_device()
    model, spec = load_bundle(config.bundle, device)
    if (spec.kind, spec.classes) != (of.task.kind, of.task.class_names):
        raise ConfigError(
            f"{config.bundle} answers {spec.kind} {spec.classes}, the task is {of.task.kind} {of.task.class_names}"
        )
    windows = spec.inference if config.mode is None else spec.inference.model_copy(update={"mode": config.mode})
    if said := left_out_line(of.task.name, {config.split: of.data.left_out}):
        console.warn(said)
    with console.stage("evaluate", len(of.data), "images") as stage:
        result = evaluate(model, of.data, of.task, spec.img_px, device, **windows.model_dump())
        stage.to(len(of.data))
    grid = None
    if config.robustness:
        with console.stage("robustness", PASSES, "passes") as stage:
            grid = robust_grid(model, of.data, of.task, windows, stage.advance)
    page = write_evaluation(
        config.folder, Evaluated(result, model, spec, of.task, of.data, config.split, of.shards, windows, grid)
    )
    rows = [(name, f"{s.value:.4f}", f"{s.low:.4f} to {s.high:.4f}") for name, s in result.scores.items()]
    counts = [("images", len(of.data), ""), ("patients", len(set(of.data.groups)), "")]
    console.table(f"{of.task.name} on {config.split} ({page})", ("score", "value", "95 %"), [*rows, *counts])
    return config.folder


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        EvaluateConfig, run, plan, argv, command="evaluate", positional="model",
        description="Score a fine-tuned head on a split, with a report.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
