"""Scale on paper: images/s, network, checkpoints, storage and cost on 1 to 512 GPUs, from constants.

    python tests/benchmarks/scaling.py [--constants FILE.json] [--step STEP.json] [--set mfu=0.35] > table.md

Constants are in `scaling_constants.json`, each with its source and whether it was measured, counted or only stated.
`--step` takes the result of `step.py` on a GPU and replaces what that measured: matmul rate, MFU, work per image.
The MFU is that of a whole step, with AdamW and everything else, at `batch_per_gpu` images: what AdamW takes is a
part of that step's time, and stays as long when a GPU has fewer images. The formulas are this file;
`docs/SCALING.md` holds its output for the constants as they are (a test compares them).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GPUS = (1, 8, 64, 512)
PER_NODE = 8
GRADIENT_BYTES, WEIGHT_BYTES = 4, 4  # fp32 on the wire, see `speed.gradients`
STATE_BYTES = 12  # weights and two moments, fp32
UPDATE_BYTES = 7 * 4  # AdamW reads weight, gradient, two moments and writes three of them


@dataclass(frozen=True)
class Scale:
    """What follows for one number of GPUs; times in seconds, bytes by GPU and step."""

    gpus: int
    global_batch: int
    compute_s: float
    update_s: float
    ddp_bytes: float
    fsdp_bytes: float
    exposed_s: float
    images_per_s: float
    storage_bytes_per_s: float
    decode_cores: float
    checkpoint_share: float
    days: float
    usd: float

    @property
    def efficiency(self) -> float:
        """Share of a step in which the GPU computes."""
        return self.compute_s / (self.compute_s + self.update_s + self.exposed_s)


def scale(gpus: int, c: dict[str, float]) -> Scale:
    """Time of a step on one GPU, then everything else from it.

    A step is compute + AdamW + the part of the all-reduce that does not hide behind the backward pass. A ring moves
    2 (n - 1) / n of the gradients through every GPU; FSDP gathers weights twice and scatters gradients once,
    3 (n - 1) / n. Two thirds of the compute are backward.

    Raises:
        SystemExit: AdamW alone would take longer than the whole step that `mfu` is of.
    """
    whole_batch = int(c["batch_per_gpu"])
    batch = min(whole_batch, int(c["largest_batch"]) // gpus)
    whole = whole_batch * c["flop_per_image"] / (c["matmul_flop_per_s"] * c["mfu"])  # AdamW and all
    update = c["parameters"] * UPDATE_BYTES / c["memory_bytes_per_s"]
    if update >= whole:
        raise SystemExit(
            f"AdamW takes {update:g} s by memory_bytes_per_s, the whole step {whole:g} s by mfu; state constants "
            "that fit each other"
        )
    compute = (whole - update) * batch / whole_batch
    others = (gpus - 1) / gpus
    ddp = 2 * others * c["parameters"] * GRADIENT_BYTES
    fsdp = 3 * others * c["parameters"] * WEIGHT_BYTES
    wire = c["nvlink_bytes_per_s"] if gpus <= PER_NODE else c["network_bytes_per_s"]
    exposed = max(0.0, ddp / wire - c["overlap"] * compute * 2 / 3)
    step = compute + update + exposed
    images = gpus * batch / step
    seconds = c["images"] * c["epochs"] / images
    return Scale(
        gpus, gpus * batch, compute, update, ddp, fsdp, exposed, images,
        images * c["stored_image_bytes"], images / c["decode_per_core"],
        c["parameters"] * STATE_BYTES / c["checkpoint_write_bytes_per_s"] / (c["checkpoint_every"] * step),
        seconds / 86400, seconds / 3600 * gpus * c["gpu_hour_usd"],
    )  # fmt: skip


def tables(constants: dict[str, dict[str, Any]]) -> str:
    """Both tables as Markdown: what follows, and from what."""
    c = {name: float(entry["value"]) for name, entry in constants.items()}
    scales = [scale(gpus, c) for gpus in GPUS]
    state = c["parameters"] * STATE_BYTES
    rows: list[tuple[str, list[str]]] = [
        ("global batch, images", [f"{s.global_batch:,}" for s in scales]),
        ("compute of a step, ms", [f"{1e3 * s.compute_s:.1f}" for s in scales]),
        ("AdamW, ms", [f"{1e3 * s.update_s:.1f}" for s in scales]),
        ("DDP bytes through a GPU and step, MB", [f"{s.ddp_bytes / 1e6:.0f}" for s in scales]),
        ("FSDP bytes through a GPU and step, MB", [f"{s.fsdp_bytes / 1e6:.0f}" for s in scales]),
        ("DDP all-reduce not hidden, ms", [f"{1e3 * s.exposed_s:.1f}" for s in scales]),
        ("images/s, all GPUs", [f"{s.images_per_s:,.0f}" for s in scales]),
        ("share of a step that computes", [f"{s.efficiency:.0%}" for s in scales]),
        ("read from storage, MB/s", [f"{s.storage_bytes_per_s / 1e6:,.0f}" for s in scales]),
        ("CPU cores that decode", [f"{s.decode_cores:,.1f}" for s in scales]),
        ("writing checkpoints, of the run (in a thread)", [f"{s.checkpoint_share:.1%}" for s in scales]),
        ("days for the run", [f"{s.days:,.2f}" for s in scales]),
        ("GPU-hours", [f"{s.days * 24 * s.gpus:,.0f}" for s in scales]),
        ("USD", [f"{s.usd:,.0f}" for s in scales]),
    ]
    return "\n".join([
        "| GPUs | " + " | ".join(map(str, GPUS)) + " |",
        "|---|" + "---|" * len(GPUS),
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
        "",
        f"A checkpoint is {state / 1e9:.2f} GB (weights and two moments) and takes "
        f"{state / c['checkpoint_write_bytes_per_s']:.1f} s to write.",
        "",
        "| constant | value | unit | | source |",
        "|---|---|---|---|---|",
        *(f"| {name} | {_shown(e['value'])} | {e['unit']} | {e['kind']} | {e['source']} |"
          for name, e in constants.items()),
    ])  # fmt: skip


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def load(path: Path, step: Path | None = None, changes: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Constants, with what a GPU run of `step.py` measured and what the caller states instead.

    Raises:
        SystemExit: the step was not timed on a GPU, or a change names no constant.
    """
    constants: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    if step is not None:
        report = json.loads(step.read_text(encoding="utf-8"))
        if report["device"].startswith("CPU"):
            raise SystemExit(f"{step} was measured on {report['device']}; this table wants a GPU's")
        settings = report["settings"]
        measured = {
            "matmul_flop_per_s": report["matmul_tflop_per_s"] * 1e12,
            "mfu": report["mfu"],
            "flop_per_image": report["gflop_per_image"]["step"] * 1e9,
            "parameters": report["parameters"],
            "batch_per_gpu": settings["batch"] * settings["accumulate"],
        }
        source = (
            f"step.py on {report['device']}, torch {report['packages']['torch']}, compile {settings['compile']}, "
            f"deterministic {settings.get('deterministic', 'not stated')}"  # reports from before it was a setting
        )
        for name, value in measured.items():
            constants[name] |= {"value": value, "kind": "measured", "source": source}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in constants:
            raise SystemExit(f"--set {change}: no constant {name}; there are {', '.join(constants)}")
        constants[name] |= {"value": float(value), "kind": "stated", "source": "--set"}
    return constants


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", type=Path, default=HERE / "scaling_constants.json")
    parser.add_argument("--step", type=Path, help="result of step.py on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="state another value")
    options = parser.parse_args(arguments)
    print(tables(load(options.constants, options.step, options.set)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
