"""The whole pre-training step against the bare encoder, against SimMIM and against the roofline, in one run.

    python tests/benchmarks/step.py --out FILE.json [--size base] [--img-px 224] [--batch 128] [--seconds 60]

The step is `usfm.train.pretrain_step.PretrainStep`, the one that runs train with: canvases (uint8) to the device,
crop and flip, both masks, encoder, decoder, both losses, clipping, AdamW, the row of metrics. The bare encoder is
its forward and backward pass alone, at the same batch and precision. Contenders take turns; ratios are taken within
a round, medians over rounds. Nothing of Ray is imported. Images are noise in memory, or shards of `usfm ingest`.
`--clock cpu` counts this process's CPU seconds: on a machine that others use, with OMP_NUM_THREADS=1.
"""

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from roofline import flops_per_image, matmul_rate  # noqa: E402
from step_material import Trained, configs  # noqa: E402
from step_shares import PARTS, Marks, marked_step  # noqa: E402

from usfm.train.determined import determined  # noqa: E402
from usfm.train.parallel import SpeedConfig  # noqa: E402

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PACKAGES = ("torch", "timm", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _options(arguments)
    device, load = torch.device(options.device), os.getloadavg()[0]
    with determined(options.deterministic, device):  # all contenders alike; a step by itself follows `speed` anyway
        report = _measured(options, device)
    report["load_before_and_after"] = [load, os.getloadavg()[0]]
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    return 0


def _measured(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Turns of all contenders, and what follows from them."""
    of = configs(options, device)
    dual = Trained(of["dual"], device)
    memory = _peak_memory(dual, device)  # before the other contender lies beside it
    work = flops_per_image(dual.objective, min(options.batch, 8), options.img_px, device)
    turns: dict[str, Callable[[], Any]] = {
        "step": dual.take, "encoder": _bare_encoder(dual, device), "simmim": Trained(of["simmim"], device).take,
    }  # fmt: skip
    marks, parts = Marks(device, CLOCKS[options.clock]), dict.fromkeys(PARTS, 0.0)
    for turn in turns.values():  # compiles, tunes, fills caches
        turn(), turn()
    marked_step(dual, marks)
    rounds: list[dict[str, float]] = []
    until = time.perf_counter() + options.seconds
    while len(rounds) < options.rounds or time.perf_counter() < until:
        order = list(turns) if len(rounds) % 2 == 0 else list(turns)[::-1]
        timed = {name: _rate(turns[name], options, device) for name in order}
        before = marks.clock()
        seconds = marked_step(dual, marks)
        timed["marked_s"] = marks.clock() - before
        for name in PARTS:
            parts[name] += seconds[name]
        timed["matmul"] = matmul_rate(device, dual.step.bf16, CLOCKS[options.clock])
        rounds.append(timed)
    shutil.rmtree(dual.config.run_dir)
    return _summary(options, dual, work, rounds, parts) | {"peak_memory_gb": memory / 1e9}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--size", default="base" if cuda else "nano", help="of the encoder")
    parser.add_argument("--img-px", type=int, default=224 if cuda else 96)
    parser.add_argument("--batch", type=int, default=256 if cuda else 64, help="images per forward pass")
    parser.add_argument("--accumulate", type=int, default=1, help="forward passes per optimizer step")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="torch.compile of the encoder, in all contenders")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing, in all contenders")
    parser.add_argument(
        "--deterministic", action=argparse.BooleanOptionalAction, default=SpeedConfig().deterministic,
        help="algorithms that give the same bits each time, in all contenders; by default as runs have it",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60.0, help="at least so long in all")
    parser.add_argument("--rounds", type=int, default=5, help="at least so many turns of each contender")
    parser.add_argument("--images", type=int, default=0, help="per turn; 0 = four optimizer steps")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS))
    parser.add_argument("--shards", help="local shards of `usfm ingest` instead of noise in memory")
    return parser.parse_args(arguments)


def _peak_memory(dual: Trained, device: torch.device) -> float:
    """Bytes: on CUDA what steps allocate at most, weights and moments included; else the process's largest size."""
    dual.take(), dual.take()
    if device.type != "cuda":
        return 1000.0 * _max_rss_kb()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device))


def _bare_encoder(trained: Trained, device: torch.device) -> Callable[[], None]:
    """Forward and backward pass over as many images as an optimizer step has."""
    config, encoder = trained.config, trained.objective.encoder
    images = torch.rand(config.batch.micro_size, 1, config.encoder.img_px, config.encoder.img_px, device=device)

    def turn() -> None:
        for _ in range(config.batch.lanes(1)):
            with torch.autocast(device.type, torch.bfloat16, enabled=trained.step.bf16):
                tokens = encoder(images)
            tokens.backward(torch.ones_like(tokens))
        encoder.zero_grad(set_to_none=True)

    return turn


def _rate(turn: Callable[[], Any], options: argparse.Namespace, device: torch.device) -> float:
    """Images per second of some optimizer steps, from an idle device to an idle device."""
    per_step = options.batch * options.accumulate
    steps = max(1, options.images // per_step) if options.images else 4
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = CLOCKS[options.clock]
    began = now()
    for _ in range(steps):
        turn()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps * per_step / (now() - began)


def _summary(
    options: argparse.Namespace, dual: Trained, work: dict[str, float], rounds: list[dict[str, float]],
    parts: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    device, on_gpu = torch.device(options.device), options.device.startswith("cuda")
    matmul = max(r["matmul"] for r in rounds)
    rate = {name: median(r[name] for r in rounds) for name in ("step", "encoder", "simmim")}
    against = {name: [r["step"] / r[name] for r in rounds] for name in ("encoder", "simmim")}
    return {
        "ratio_to_encoder": median(against["encoder"]),
        "ratio_to_simmim": median(against["simmim"]),
        "images_per_s": rate["step"],
        "mfu": rate["step"] * work["step"] / matmul,
        # of the marked steps' own time as a whole, so that they need not add up to 1
        "shares": {name: seconds / sum(r["marked_s"] for r in rounds) for name, seconds in parts.items()},
        "spread": {name: [min(values), max(values)] for name, values in against.items()},
        "encoder_images_per_s": rate["encoder"],
        "simmim_images_per_s": rate["simmim"],
        "encoder_mfu": rate["encoder"] * work["encoder"] / matmul,
        "gflop_per_image": {name: flops / 1e9 for name, flops in work.items()},
        "matmul_tflop_per_s": matmul / 1e12,
        "parameters": sum(p.numel() for p in dual.objective.parameters()),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "precision": "bf16" if dual.step.bf16 else "fp32",
        "settings": vars(options),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "rounds": rounds,
    }


def _max_rss_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(report: dict[str, Any]) -> str:
    """What a person reads."""
    s, spread = report["settings"], report["spread"]
    compared = [
        f"whole step / {name} {report[key]:.3f} ({spread[which][0]:.3f} - {spread[which][1]:.3f})"
        for name, key, which in [
            ("bare encoder", "ratio_to_encoder", "encoder"),
            ("SimMIM", "ratio_to_simmim", "simmim"),
        ]
    ]
    lines = [
        f"{s['size']}/{s['img_px']}, batch {s['batch']} x {s['accumulate']}, {report['precision']}, "
        f"{report['device']}, torch {report['packages']['torch']}, compile {s['compile']}, "
        f"deterministic {s['deterministic']}, {s['clock']} clock, {len(report['rounds'])} rounds",
        "",
        "| | images/s | of matmul rate |",
        "|---|---|---|",
        f"| whole step | {report['images_per_s']:.1f} | {report['mfu']:.3f} |",
        f"| encoder, forward + backward | {report['encoder_images_per_s']:.1f} | {report['encoder_mfu']:.3f} |",
        f"| SimMIM step | {report['simmim_images_per_s']:.1f} | |",
        "",
        "; ".join(compared) + f"; peak memory {report['peak_memory_gb']:.2f} GB",
        "",
        "| part of the step | share |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {share:.1%} |" for name, share in report["shares"].items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
