"""Pre-trains every arm of the ablation with several seeds, each in this process, without Ray.

    python tests/benchmarks/ablation.py train --shards runs/shards --out runs/ablation
    python tests/benchmarks/ablation.py probe --shards runs/shards --out runs/ablation
    python tests/benchmarks/ablation_table.py runs/ablation --out docs/figures

Arms: dual against spatial-only against frequency-only, balanced against natural sampling, pixel against latent
targets; all with the same encoder, steps, rate and seeds. A run that is whole is skipped, one that was interrupted
goes on. `probe` scores every encoder, and the random weights that each seed began with, on the tasks of
`probe_corpus.yaml`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ray_jobs.console import Console
from ray_jobs.job import recipe_path
from ray_jobs.probe import ProbeJobConfig
from ray_jobs.probe import run as run_probe
from usfm.config import load_config
from usfm.train.checkpoint import latest_checkpoint, read_state
from usfm.train.context import PlainContext
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.rundir import open_run

SPATIAL = {"unit_px": 16}
ARMS: dict[str, dict[str, Any]] = {
    "dual": {},
    "spatial": {"objective": {"spatial_mask": SPATIAL, "frequency_mask": {"ratio": 0}, "frequency_weight": 0}},
    "frequency": {
        "objective": {"spatial_mask": {**SPATIAL, "ratio": 0}, "spatial_weight": 0, "frequency_weight": 1.0}
    },
    "natural": {"sampling": {"alpha": 1.0, "chunk_size": 512}},
    "teacher": {"objective": {"kind": "teacher", "spatial_mask": SPATIAL}},
}


def config_of(arm: str, seed: int, shards: str, run_dir: Path, images: int) -> PretrainConfig:
    """One run: the arm's difference from the dual objective on balanced organs."""
    values = {"objective": {"spatial_mask": SPATIAL}, "sampling": {"chunk_size": 512}} | ARMS[arm]
    return PretrainConfig.build(
        {
            "run_dir": str(run_dir), "seed": seed,
            "data": {"shards": shards, "sampling": values["sampling"]},
            "encoder": {"size": "nano", "img_px": 64, "patch_px": 8, "drop_path": 0.0},
            "objective": values["objective"],
            "batch": {"global_size": 64, "micro_size": 64}, "optim": {"lr": 1.6e-2},
            "epochs": 1, "epoch_samples": images, "checkpoint_every": 200,
        }
    )  # fmt: skip


def run_one(config: PretrainConfig) -> dict[str, Any]:
    """Pre-train in this process; returns the last row."""
    context = PlainContext(torch.device("cpu"))
    return pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context))


def train(args: argparse.Namespace) -> None:
    """All arms of one seed, then the next seed."""
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for arm in args.arms:
            run_dir = Path(args.out) / f"{arm}-{seed}"
            config = config_of(arm, seed, args.shards, run_dir, args.images)
            found = latest_checkpoint(run_dir)
            if found and read_state(found)["samples"] >= args.images:
                continue
            open_run(run_dir, config, {"arm": arm})
            began = time.perf_counter()
            loss, seconds = run_one(config)["loss"], round(time.perf_counter() - began)
            print(json.dumps({"arm": arm, "seed": seed, "loss": loss, "seconds": seconds}), flush=True)


def probe(args: argparse.Namespace) -> None:
    """Scores of every run, and of untrained encoders of the same seeds."""
    torch.set_num_threads(args.threads)
    base = load_config(ProbeJobConfig, recipe_path("probe_corpus"), [f"shards={args.shards}"])
    for seed in args.seeds:
        shape = config_of("dual", seed, args.shards, Path("unused"), args.images).encoder
        untrained = {"init": "random", "encoder": shape, "seed": seed}
        asked = {f"random-{seed}": untrained} | {
            f"{arm}-{seed}": {"source": f"{args.out}/{arm}-{seed}"} for arm in args.arms
        }
        for name, update in asked.items():
            folder = Path(args.out) / "probes" / name
            if not (folder / "probe.json").exists():
                run_probe(base.model_copy(update={**update, "output": str(folder)}), Console())


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "probe"])
    parser.add_argument("--shards", default="runs/shards")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--images", type=int, default=24_576)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    (train if args.what == "train" else probe)(args)


if __name__ == "__main__":
    main()
