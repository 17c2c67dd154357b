"""A sweep's tables made up by a stated model, without training anything. For tests alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

INITS = {"dual": "runs/pretrain", "scratch": "scratch", "unet": {"network": "unet"}}
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
# as the labels of `shard_factory` are
TASKS = {
    "head": {
        "name": "head", "kind": "segmentation", "organs": ["fetal_head"], "classes": {"head": ["*"]},
        "canvas_px": 64,
    },
    "view": {
        "name": "view", "kind": "classification", "organs": ["heart"], "classes": {"two": ["a"], "four": ["b"]},
        "canvas_px": 64,
    },
}  # fmt: skip
LIFT = {"dual": 0.12, "scratch": 0.0, "unet": 0.05}  # of the score at 1 % of the labels; gone at 100 %


def expected(init: str, fraction: float) -> float:
    """The score that the made-up model has for an initialisation at a label fraction."""
    return 0.62 + 0.13 * (1 + np.log10(fraction) / 2) + LIFT[init] * (0.25 - 0.375 * np.log10(fraction))


def write_sweep(
    folder: Path, tasks=("head", "view"), inits=("dual", "scratch", "unet"), fractions=FRACTIONS, seeds=range(5),
    items=60, shards="runs/shards", ids=None,
) -> Path:  # fmt: skip
    """Write config.yaml, environment.json, results.parquet and items.parquet; returns the folder.

    Two items belong to each patient, three of four come from the source "made". `ids`: task -> ids of its items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "run_dir": str(folder), "shards": str(shards), "tasks": [TASKS[task] for task in tasks],
        "inits": {init: INITS[init] for init in inits}, "fractions": list(fractions), "seeds": list(seeds),
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "environment.json").write_text(json.dumps({"device": "cpu", "cpus": 2, "git_revision": "abc"}))
    results, rows = [], []
    for task in tasks:
        names = (ids or {}).get(task) or [f"made/{task}/{n:03d}" for n in range(items)]
        hard = np.random.default_rng(len(task)).normal(0, 0.07, len(names))  # the same images are hard for all
        for init in inits:
            for fraction in fractions:
                for seed in seeds:
                    rng = np.random.default_rng([len(task), inits.index(init), int(1000 * fraction), seed])
                    score = expected(init, fraction) + rng.normal(0, 0.01) + hard
                    made = _items(task, names, score, rng)
                    keys = {"task": task, "init": init, "fraction": fraction, "seed": seed}
                    rows += [keys | row for row in made]
                    results.append(_result(keys, made, fraction, rng))
    pd.DataFrame(results).to_parquet(folder / "results.parquet")
    pd.DataFrame(rows).to_parquet(folder / "items.parquet")
    return folder


def _items(task: str, names: list[str], score: np.ndarray, rng: np.random.Generator) -> list[dict]:
    made = []
    for n, name in enumerate(names):
        row = {
            "id": name, "group": f"{task}/{n // 2}", "organ": TASKS[task]["organs"][0],
            "source": "made" if n % 4 else "other",
        }  # fmt: skip
        if task == "head":
            dice = float(np.clip(score[n] + rng.normal(0, 0.03), 0, 1))
            row |= {"value": dice, "dice": dice, "iou": dice / (2 - dice), "hd95_px": 40 * (1 - dice)}
        else:
            truth, other = ("two", "four") if n % 2 else ("four", "two")
            right = bool(rng.random() < score[n])
            probability = float(np.clip(score[n] + rng.normal(0, 0.08), 0.5, 0.999))
            predicted = truth if right else other
            row |= {"value": float(right), "truth": truth, "predicted": predicted, "probability": probability,
                    f"p_{predicted}": probability, f"p_{other if right else truth}": 1 - probability}  # fmt: skip
        made.append(row)
    return made


def _result(keys: dict, made: list[dict], fraction: float, rng: np.random.Generator) -> dict:
    table = pd.DataFrame(made)
    segmentation = keys["task"] == "head"
    value = (
        table.value.mean() if segmentation else table.groupby("truth").value.mean().mean()
    )  # balanced accuracy: mean recall
    metric = "dice" if segmentation else "balanced_accuracy"
    extra = {"score_iou": table.iou.mean(), "score_hd95_px": table.hd95_px.mean()} if segmentation else {}
    return {
        **keys, "kind": TASKS[keys["task"]]["kind"], "network": "unet" if keys["init"] == "unet" else "usfm",
        "train_items": int(200 * fraction), "train_groups": int(100 * fraction), "metric": metric, "value": value,
        "val_value": value, "seconds": 10 + rng.random(), "status": "ok",
        "bundle": f"trials/{keys['task']}-{keys['init']}-{keys['fraction']:g}-{keys['seed']}/best",
        f"score_{metric}": value, **extra,
    }  # fmt: skip
