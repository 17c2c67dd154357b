"""The console script `usfm`: one table from command to module, nothing else."""

import importlib
import sys
from collections.abc import Sequence

from usfm import __version__

__all__ = ["COMMANDS", "main"]

# command: (module with a `main(argv) -> int`, what it does). Modules are imported only when they are asked for.
COMMANDS = {
    "demo": ("ray_jobs.demo", "the whole path on real or simulated data, with a report, in minutes"),
    "doctor": ("ray_jobs.doctor", "check this machine and say what to do about each problem"),
    "ingest": ("ray_jobs.ingest", "raw files to shards"),
    "data": ("ray_jobs.data", "data card of shards, hash lists, and a search for a benchmark's images"),
    "pretrain": ("ray_jobs.pretrain", "pre-train an encoder by dual masked image modelling"),
    "replay": ("ray_jobs.replay", "repeat a step that pre-training refused, and find where the NaN arises"),
    "finetune": ("ray_jobs.finetune", "train a head: classes, labels, masks, numbers or better images"),
    "sweep": (
        "ray_jobs.sweep",
        "how many labels are needed: task x initialisation x label fraction x seed, with a report",
    ),
    "evaluate": ("ray_jobs.evaluate", "score a head on a split: report, intervals, every item listed"),
    "probe": ("ray_jobs.probe", "score frozen features: kNN and linear probes, feature rank"),
    "export": (
        "ray_jobs.export",
        "a run's encoder as one folder with weights, config and model card, for us, timm and ONNX",
    ),
    "weights": ("ray_jobs.weights", "explain every key of a weight file, ours or others', and convert it"),
    "serve": ("serve_apps.serve", "HTTP endpoint and web page for heads and encoders"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        module = importlib.import_module(COMMANDS[arguments[0]][0])
        status: int = module.main(arguments[1:])
        return status
    if arguments == ["--version"]:
        print(__version__)
        return 0
    print("usage: usfm COMMAND [--config RECIPE] [--dry-run] [--verbose] [key=value ...]\n")
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:<10} {purpose}")
    print("\nusfm COMMAND --help says more. Research software, not a medical device.")
    asked = not arguments or arguments[0] in ("-h", "--help", "help")
    if not asked:
        print(f"\nerror: no command {arguments[0]!r}", file=sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
