"""Evaluate: score a fine-tuned head on a split, `usfm evaluate runs/finetune_fetal_head`."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.data.tasks import TaskConfig, load_task
from usfm.errors import ConfigError
from usfm.metrics.evaluation import evaluate
from usfm.models.bundle import load_bundle
from usfm.train.context import best_device
from usfm.train.rundir import read_config

__all__ = ["EvaluateConfig", "main", "plan", "run"]


class EvaluateConfig(Config):
    """What to score on what.

    Attributes:
        run_dir: a fine-tuning run; its task and its best bundle are used.
        shards: folder of shards; None = those of the run.
        split: split to score on.
        output: folder for evaluation.json and evaluation.csv; None = `evaluation-<split>` in the run's folder.
    """

    run_dir: str = "runs/finetune_fetal_head"
    shards: str | None = None
    split: Literal["train", "val", "test"] = "test"
    output: str | None = None

    @property
    def folder(self) -> Path:
        """Where the result goes."""
        return Path(self.output) if self.output else Path(self.run_dir) / f"evaluation-{self.split}"


def _inputs(config: EvaluateConfig) -> tuple[TaskConfig, str]:
    values = read_config(Path(config.run_dir))
    if "task" not in values:
        raise ConfigError(f"{config.run_dir} is not a fine-tuning run: its config.yaml names no task")
    return TaskConfig.build(values["task"]), config.shards or values["shards"]


def plan(config: EvaluateConfig) -> dict[str, Any]:
    """What would be scored."""
    task, shards = _inputs(config)
    items = len(load_task(shards, task)[config.split])
    return {"task": task.name, "shards": shards, "items": items, "output": str(config.folder)}


def run(config: EvaluateConfig, console: Console) -> Path:
    """Score, write JSON and CSV, print the score."""
    task, shards = _inputs(config)
    device = best_device()
    model, spec = load_bundle(Path(config.run_dir) / "best", device)
    data = load_task(shards, task)[config.split]
    with console.stage("evaluate", len(data), "images") as stage:
        result = evaluate(model, data, task, spec.img_px, device)
        stage.to(len(data))
    config.folder.mkdir(parents=True, exist_ok=True)
    document = {**result.to_json(), "version": spec.version, "split": config.split, "shards": shards}
    (config.folder / "evaluation.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    with (config.folder / "evaluation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(result.per_item[0]))
        writer.writeheader()
        writer.writerows(result.per_item)
    rows = [(result.metric, f"{result.value:.4f}"), ("images", len(data)), ("patients", len(set(data.groups)))]
    console.table(f"{task.name} on {config.split} ({config.folder})", ("score", "value"), rows)
    return config.folder


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        EvaluateConfig, run, plan, argv, positional="run_dir",
        description="Score a fine-tuned head on a split.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
