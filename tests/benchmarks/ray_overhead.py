"""What Ray costs: the same pre-training run in a plain process, under torchrun and under Ray Train, in turns.

    python tests/benchmarks/ray_overhead.py --out FILE.json [--shards DIR] [--rounds 3] [--steps 60]

Every contender trains the same config on the same shards to the same number of steps: `plain` and `torchrun` with
`usfm.train.threaded_feed`, `ray` with `ray_jobs.feed` (Ray Data). images/s is the median over the steps of the
run's own journal after `--warm` steps: starting Ray is not in it (but in `whole_s`). Workers compute in one thread.
Losses of all contenders with one worker must be equal, bit for bit, else the run fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

CONTENDERS = ("plain", "torchrun-1", "ray-1", "torchrun-2", "ray-2")
PAIRS = {"torchrun-1": "plain", "ray-1": "plain", "ray-2": "torchrun-2"}
"""What a contender is compared with: the same number of workers without Ray."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--shards", help="of `usfm ingest`; else a few hundred small images are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm", type=int, default=20, help="first steps that do not count")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--img-px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="images per optimizer step, over all workers")
    parser.add_argument("--gpus", type=int, default=0, choices=[0, 1], help="GPUs per worker")
    parser.add_argument("--only", default=",".join(CONTENDERS), help=f"some of {','.join(CONTENDERS)}")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    rounds: list[dict[str, Any]] = []
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="usfm-overhead-") as folder:
        shards = options.shards or _made(Path(folder))
        for number in range(options.rounds):
            order = names if number % 2 == 0 else names[::-1]
            rounds.append({name: _turn(name, Path(folder) / f"{number}-{name}", shards, options) for name in order})
            for name in order:
                print(f"round {number + 1}  {name:11} {rounds[-1][name]['images_per_s']:.1f} images/s", flush=True)
    load.append(os.getloadavg()[0])
    report = {
        "images_per_s": {name: median(r[name]["images_per_s"] for r in rounds) for name in names},
        "ratios": {
            f"{name}/{base}": [r[name]["images_per_s"] / r[base]["images_per_s"] for r in rounds]
            for name, base in PAIRS.items()
            if {name, base} <= set(names)
        },
        "equal_losses": _equal([r[name]["losses"] for r in rounds for name in names if not name.endswith("2")]),
        "rounds": [{n: {k: v for k, v in t.items() if k != "losses"} for n, t in r.items()} for r in rounds],
        "settings": vars(options), "cores": os.cpu_count(), "load_before_and_after": load,
    }  # fmt: skip
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    return 0 if report["equal_losses"] else 1


def _turn(name: str, run_dir: Path, shards: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in processes of its own."""
    from usfm.train.journal import read_journal

    kind, _, workers = name.partition("-")
    config = {
        "run_dir": str(run_dir), "seed": 1, "data": {"shards": shards, "sampling": {"chunk_size": 256}},
        "encoder": {"size": options.size, "img_px": options.img_px}, "observe": {"every": 0},
        "batch": {"global_size": options.batch, "micro_size": options.batch // 2},
        "epochs": 1, "epoch_samples": options.batch * options.steps, "checkpoint_every": 10**6,
    }  # fmt: skip
    recipe = run_dir.with_suffix(".json")  # JSON is YAML
    recipe.write_text(json.dumps(config))
    command = {
        "plain": [sys.executable, __file__, "--plain", str(recipe)],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}",
                     "-m", "usfm.train.torchrun", "--config", str(recipe)],
        "ray": [sys.executable, "-m", "ray_jobs.pretrain", "--config", str(recipe), f"workers={workers}",
                f"gpus_per_worker={options.gpus}", "cluster.address=local"],
    }[kind]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=run_dir.parent)
    whole = time.perf_counter() - began
    rows = list(read_journal(run_dir)) if run_dir.is_dir() else []
    if done.returncode or len(rows) != options.steps:
        raise RuntimeError(f"{name} failed after {len(rows)} steps: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    counted = rows[options.warm :]
    return {
        "images_per_s": median(row["images_per_s"] for row in counted),
        "data_wait": median(row["data_wait"] for row in counted),
        "losses": [row["loss"] for row in rows],
        "whole_s": whole,
    }


def _plain(recipe: str) -> int:
    """The loop in this very process, on one thread."""
    import torch

    from usfm.config import load_config
    from usfm.train.context import PlainContext
    from usfm.train.pretrain import pretrain
    from usfm.train.pretrain_plan import PretrainConfig
    from usfm.train.threaded_feed import threaded_feed

    torch.set_num_threads(1)
    config, context = load_config(PretrainConfig, recipe), PlainContext()
    pretrain(config, context, lambda stream, plan: threaded_feed(stream, plan, config, context))
    return 0


def _made(folder: Path) -> str:
    from shard_factory import write_small_shards

    return str(write_small_shards(folder / "shards"))


def _equal(losses: list[list[float]]) -> bool:
    return all(other == losses[0] for other in losses)


def table(report: dict[str, Any]) -> str:
    """What a person reads."""
    s = report["settings"]
    lines = [
        f"{s['size']}/{s['img_px']}, batch {s['batch']}, {s['steps']} steps, {s['rounds']} rounds in turns, "
        f"{report['cores']} cores, load {report['load_before_and_after']}; losses equal: {report['equal_losses']}",
        "", "| | images/s, median | start to end, s |", "|---|---|---|",
        *(f"| {name} | {rate:.1f} | {median(r[name]['whole_s'] for r in report['rounds']):.0f} |"
          for name, rate in report["images_per_s"].items()),
        "", "| ratio | median | lowest | highest |", "|---|---|---|---|",
        *(f"| {name} | {median(v):.3f} | {min(v):.3f} | {max(v):.3f} |" for name, v in report["ratios"].items()),
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(_plain(sys.argv[2]) if sys.argv[1:2] == ["--plain"] else main())
