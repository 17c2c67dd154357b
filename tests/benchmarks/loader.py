"""Images per second into batch tensors, against the decode limit and against other loaders, in one run.

    python tests/benchmarks/loader.py --out FILE.json [--images N] [--seconds S] [--only ours,torch] [--shards DIR]

Every contender delivers uint8 batches (B, S, S) of decoded grey images, black right of and below each image, to
one consumer (ours: to each train worker), from the same encoded bytes, on the same cores. Each timing is a process
of its own (Ray contenders: with a fresh cluster, whose start is not counted); contenders take turns, round after
round. Every delivered image is recognised, and pixels are compared after each timing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import contenders
from material import make_material

TITLES = {
    "limit": "bare cv2.imdecode on every core (the limit)",
    "limit_balanced": "the same, organs balanced",
    "ours": "ours: ray_jobs.feed, organs balanced",
    "ours_sequential": "ours, shard after shard",
    "torch": "torch DataLoader, memory-mapped shards",
    "webdataset": "webdataset, tar",
    "mosaic": "MosaicML streaming, MDS",
    "ray_images": "Ray Data read_images, files",
    "ray_parquet": "Ray Data read_parquet + map(decode)",
}
PACKAGES = ["ray", "torch", "opencv-python-headless", "pyarrow", "numpy", "webdataset", "mosaicml-streaming"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _options(arguments)
    contenders.find_packages()
    if options.folder:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="usfm-loader-", dir=options.folder) as name:
        root = Path(name)
        say(f"writing images below {root}")
        material = make_material(
            root, options.images, options.seed, Path(options.shards) if options.shards else None
        )
        say(f"{material.images} images on a canvas of {material.canvas_px} px; batches of {options.batch}")
        absent = {name: module for name in options.only if (module := contenders.missing(name))}
        turns = [name for name in options.only if name not in absent]
        timings: dict[str, list[dict[str, Any]]] = {name: [] for name in turns}
        load = [os.getloadavg()[0]]
        for turn in range(options.repetitions):
            for contender in turns:
                result = _apart(root, options, contender=contender, seconds=options.seconds,
                                warm_s=options.warm, workers=options.workers, material=str(root))  # fmt: skip
                timings[contender].append(result)
                say(f"round {turn + 1}  {contender:16} {_said(result)}")
        load.append(os.getloadavg()[0])
        memory = {}
        for rows in options.memory_rows:
            memory[rows] = _apart(root, options, rows=rows, folder=str(root), images=options.memory_images)
            say(f"{rows} rows  {_said(memory[rows])}")
    report = summary(timings, memory, absent)
    report["settings"] = {**vars(options), "images": material.images, "canvas_px": material.canvas_px}
    report["machine"] = {"cores": options.cores, "load_before_and_after": load, "python": platform.python_version(),
                         "packages": {name: _version(name) for name in PACKAGES}}  # fmt: skip
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    return 1 if report["failed"] else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        unknown = sorted(set(text.split(",")) - set(TITLES))
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(TITLES)}")
        return text.split(",")

    def counts(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=4096, help="images to simulate where no shards are given")
    parser.add_argument("--shards", help="local shards of `usfm ingest` to use instead of simulated images")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each timing")
    parser.add_argument("--warm", type=float, default=3.0, help="seconds between first batch and timing")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds in which every contender has a turn")
    parser.add_argument("--only", type=names, default=list(TITLES), help=f"some of {','.join(TITLES)}")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1, help="train workers that take our batches")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="decoding processes of each contender")
    parser.add_argument("--memory-rows", type=counts, default=[10**3, 10**4, 10**5, 10**6],
                        help="data set sizes for peak memory; '' = none")  # fmt: skip
    parser.add_argument(
        "--memory-images", type=int, default=20_000, help="tiny images streamed while memory is watched"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where temporary files go; about five times the images' bytes")
    return parser.parse_args(arguments)


def _apart(root: Path, options: argparse.Namespace, **spec: Any) -> dict[str, Any]:
    """Run one spec in a process of its own; a failure is a result, too."""
    path = root / "spec.json"
    path.with_suffix(".result").unlink(missing_ok=True)
    path.write_text(json.dumps({**spec, "batch": options.batch, "cores": options.cores}), encoding="utf-8")
    command = [sys.executable, str(Path(__file__).with_name("one_run.py")), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        return {"error": "no result within 600 s"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(path.with_suffix(".result").read_text(encoding="utf-8"))
    return result


def summary(
    timings: dict[str, list[dict[str, Any]]], memory: dict[int, dict[str, Any]], absent: dict[str, str]
) -> dict[str, Any]:
    """Medians, spreads, and ratios taken within each round (load of other processes then counts for both)."""
    good = {name: [r for r in runs if "error" not in r] for name, runs in timings.items()}
    rates = {name: [run["images_per_s"] for run in runs] for name, runs in good.items() if runs}
    first = {name: [run["first_batch_s"] for run in runs if "first_batch_s" in run] for name, runs in good.items()}
    to_limit = _ratios(timings, "ours", "limit_balanced")
    sequential = _ratios(timings, "ours_sequential", "limit")
    same_mix = [a / b for a, b in zip(to_limit, sequential, strict=False)]
    everything = {**timings, **{f"{rows} rows": [run] for rows, run in memory.items()}}
    return {
        "ratio_to_limit": median(to_limit) if to_limit else None,
        "ratio_to_limit_by_round": to_limit,
        "images_per_s": {name: median(values) for name, values in rates.items()},
        "images_per_s_spread": {name: [min(values), max(values)] for name, values in rates.items()},
        "first_batch_s": median(first["ours"]) if first.get("ours") else None,
        "first_batch_s_by_contender": {name: median(values) for name, values in first.items() if values},
        "first_batch_s_worst": {name: max(values) for name, values in first.items() if values},
        # each relative to the limit on its own mix of organs: their images are not equally hard to decode
        "balanced_over_sequential": median(same_mix) if same_mix else None,
        "balanced_over_sequential_raw": _middle(_ratios(timings, "ours", "ours_sequential")),
        "peak_rss_mb": {
            str(rows): run["peak_mb"]["driver + train worker"] for rows, run in memory.items() if "peak_mb" in run
        },
        "peak_rss_mb_by_part": {str(rows): run["peak_mb"] for rows, run in memory.items() if "peak_mb" in run},
        "not_installed": absent,
        "failed": {name: run["error"] for name, runs in everything.items() for run in runs if "error" in run},
        "runs": timings,
    }


def _ratios(timings: dict[str, list[dict[str, Any]]], above: str, below: str) -> list[float]:
    pairs = zip(timings.get(above, []), timings.get(below, []), strict=False)
    return [a["images_per_s"] / b["images_per_s"] for a, b in pairs if "error" not in a and "error" not in b]


def _middle(values: list[float]) -> float | None:
    return median(values) if values else None


def table(report: dict[str, Any]) -> str:
    """The report for a person, in Markdown."""
    lines = [
        "",
        "| contender | images/s | lowest - highest | of the limit | first batch, s |",
        "|---|---|---|---|---|",
    ]
    rates = report["images_per_s"]
    for name, title in TITLES.items():
        if name in report["not_installed"]:
            lines.append(f"| {title} | not installed | | | |")
        elif name in rates:
            low, high = report["images_per_s_spread"][name]
            limit = rates.get("limit_balanced" if name in ("ours", "limit_balanced") else "limit")
            share = f"{rates[name] / limit:.2f}" if limit else ""
            first = report["first_batch_s_by_contender"].get(name)
            first_text = f"{first:.2f}" if first is not None else ""
            lines.append(f"| {title} | {rates[name]:,.0f} | {low:,.0f} - {high:,.0f} | {share} | {first_text} |")
        elif name in report["failed"]:
            lines.append(f"| {title} | failed | | | |")
    goals = ("ratio_to_limit", "first_batch_s", "balanced_over_sequential")
    lines += [f"\n{name} = {report[name]:.3f}" for name in goals if report[name] is not None]
    if report["peak_rss_mb"]:
        lines += ["", "| rows | peak of driver + train worker, MB | driver | train worker |", "|---|---|---|---|"]
        for rows, peak in report["peak_rss_mb_by_part"].items():
            both, driver, worker = (peak[part] for part in ("driver + train worker", "driver", "train worker"))
            lines.append(f"| {int(rows):,} | {both:.0f} | {driver:.0f} | {worker:.0f} |")
    lines += [f"\nfailed: {name}: {reason}" for name, reason in report["failed"].items()]
    return "\n".join(lines)


def _said(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"failed: {result['error']}"
    if "peak_mb" in result:
        return ", ".join(f"{part} {value:.0f} MB" for part, value in result["peak_mb"].items())
    first = f", first batch {result['first_batch_s']:.2f} s" if "first_batch_s" in result else ""
    return f"{result['images_per_s']:,.0f} images/s{first}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def say(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
