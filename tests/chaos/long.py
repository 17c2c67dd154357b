"""The long form: `make chaos SEED=0`, or `python tests/chaos/long.py --seed 0 --out runs/chaos.json`.

Prints a table of events with the seconds until the run trained on, and writes it as JSON. It ends with 1 where a
stream differs from the undisturbed run's or a run does not get over an event.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
from chaos.events import Happened  # noqa: E402
from chaos.session import ChaosSession  # noqa: E402
from shard_factory import write_small_shards  # noqa: E402

from ray_jobs.cluster import set_environment, set_token  # noqa: E402

FIXED = {
    "worker killed": 4, "node replaced": 3, "driver killed": 3, "submitted twice": 1, "disk full": 2,
    "storage away": 1, "storage away a minute": 1, "killed in a save": 3, "shards away": 1,
}  # fmt: skip
FAILURES = (AssertionError, OSError, subprocess.SubprocessError, psutil.Error)
"""What ends a run before its last event; the next run is tried all the same."""
ELASTIC = {"node lost and back": 1, "worker killed": 1}
RESUMED = {"workers changed": 3}
PATIENCE_S = 300.0  # an elastic start waits up to 180 s for the reservation of a dead driver


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/chaos.json"))
    parser.add_argument("--steps", type=int, default=1200, help="length of the undisturbed run")
    parser.add_argument("--few", action="store_true", help="one event of each kind")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND", help="these kinds alone")
    args = parser.parse_args()
    set_environment()
    set_token()
    rows: list[dict] = []
    problems, began = [], time.monotonic()
    dice = np.random.default_rng(args.seed)
    plans = [
        ("fixed", shuffled(FIXED, dice, args), True, []),
        ("resumed", shuffled(RESUMED, dice, args), False, []),
        ("elastic", shuffled(ELASTIC, dice, args), False, ["workers=[1, 2]"]),
    ]
    with tempfile.TemporaryDirectory(prefix="usfm-chaos-", ignore_cleanup_errors=True) as folder:
        shards = write_small_shards(Path(folder) / "shards")
        with ChaosSession.open(Path(folder), shards, PATIENCE_S) as session:
            reference = session.undisturbed(args.steps)
            print(f"undisturbed: {time.monotonic() - began:.0f} s, {args.steps} steps", flush=True)
            for name, kinds, same, overrides in (plan for plan in plans if plan[1]):
                events = session.disturbed(
                    name, args.steps, kinds, args.seed, reference, *overrides, same_losses=same, to_the_end=False
                )
                try:
                    for event in events:
                        rows.append(row(name, same, event))
                        print(json.dumps(rows[-1]), flush=True)
                except FAILURES as error:
                    problems.append(f"{name}: {type(error).__name__}: {error}")
                    print(problems[-1], file=sys.stderr, flush=True)
    print(f"{len(rows)} events, seed {args.seed}, {time.monotonic() - began:.0f} s")
    print("| run | event | at step | trains on after, s | equal | |\n|---|---|---|---|---|---|")
    for r in rows:
        equal = "losses" if r["same_losses"] else "samples"
        print(f"| {r['run']} | {r['kind']} | {r['step']} | {r['recovery_s']:.1f} | {equal} | {r['note']} |")
    document = {
        "seed": args.seed,
        "steps": args.steps,
        "events": rows,
        "problems": problems,
        "wall_s": time.monotonic() - began,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for problem in problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    return 1 if problems else 0


def shuffled(counts: dict[str, int], dice: np.random.Generator, args: argparse.Namespace) -> list[str]:
    """Each kind as often as stated, in random order."""
    wanted = {kind: count for kind, count in counts.items() if kind in args.only or not args.only}
    kinds = [kind for kind, count in wanted.items() for _ in range(1 if args.few else count)]
    return [kinds[k] for k in dice.permutation(len(kinds))]


def row(run: str, same_losses: bool, event: Happened) -> dict:
    """An event as plain values."""
    return {"run": run, "same_losses": same_losses, **event.to_json()}


if __name__ == "__main__":
    sys.exit(main())
