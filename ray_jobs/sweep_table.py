"""The table of a sweep: one row per trial, one row per scored item, the best bundles, and a summary."""

import json
import shutil
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ray_jobs.console import Console
from ray_jobs.sweep_config import Trial
from ray_jobs.sweep_ledger import Ledger
from usfm.metrics.preference import common_fold, preference
from usfm.models.bundle import BundleSpec, discard_bundle, is_bundle, read_bundle_spec
from usfm.report.template import share
from usfm.train.durable import LEFTOVER, publish_folder, replace_file

__all__ = ["ITEMS", "TABLE", "best_trials", "discard_beaten", "keep_best", "rows_of", "summarise", "write_tables"]

TABLE, ITEMS, EVALUATION = "results", "items", "evaluation.json"
COLUMNS = (
    *("task", "kind", "init", "network", "fraction", "seed", "train_items", "train_groups"),
    *("metric", "value", "val_value", "seconds", "status", "bundle"),
)
Key = TypeVar("Key", bound=Hashable)
OK, STOPPED = "ok", "stopped early by the scheduler"


def rows_of(trials: Iterable[Trial], ledger: Ledger) -> list[dict[str, Any]]:
    """One row per trial: what it was, and its scores or the reason why it has none."""
    rows = []
    for trial in trials:
        config = trial.config
        row: dict[str, Any] = {
            "task": config.task.name, "kind": config.task.kind, "init": trial.init,
            "network": config.network, "fraction": config.fraction, "seed": config.seed,
        }  # fmt: skip
        if result := ledger.result(trial):
            row |= {key: result[key] for key in COLUMNS if key in result}
            row |= {"status": OK, "bundle": _bundle(trial)}
            row |= {f"score_{name}": score["value"] for name, score in _scored(trial).get("scores", {}).items()}
        elif stopped := ledger.stopped(trial):
            row |= {"status": STOPPED, "val_value": stopped["val_value"]}
        else:
            row["status"] = ledger.failures.get(trial.name, "not run")
        rows.append(row | {f"search_{key}": value for key, value in trial.searched.items()})
    return rows


def items_of(trials: Iterable[Trial], ledger: Ledger) -> list[dict[str, Any]]:
    """One row per trial and item of the test set, with the item's scores."""
    rows = []
    for trial in trials:
        if ledger.result(trial):
            config = trial.config
            which = {"task": config.task.name, "init": trial.init, "fraction": config.fraction, "seed": config.seed}
            searched = {f"search_{key}": value for key, value in trial.searched.items()}
            rows += [{**which, **item, **searched} for item in _scored(trial)["per_item"]]
    return rows


def write_tables(folder: Path, trials: Sequence[Trial], ledger: Ledger) -> pd.DataFrame:
    """Write results.csv, results.parquet and items.parquet; returns the table of results."""
    table = pd.DataFrame(rows_of(trials, ledger))
    table = table.reindex(columns=[*COLUMNS, *(name for name in table if name not in COLUMNS)])
    table = table.astype({"train_items": "Int64", "train_groups": "Int64"})  # a failed trial has none
    items = pd.DataFrame(items_of(trials, ledger))
    for name in items.columns[[pd.api.types.infer_dtype(items[c]).startswith("mixed") for c in items]]:
        items[name] = items[name].map(str, na_action="ignore")  # names of one task, numbers of another
    replace_file(folder / f"{TABLE}.csv", lambda path: table.to_csv(path, index=False))
    replace_file(folder / f"{TABLE}.parquet", lambda path: table.to_parquet(path, index=False))
    replace_file(folder / f"{ITEMS}.parquet", lambda path: items.to_parquet(path, index=False))
    return table


def best_trials(trials: Iterable[Trial], ledger: Ledger, alike: Callable[[Trial], Key]) -> dict[Key, Trial]:
    """The trial that `usfm.metrics.preference` prefers among those of one key of `alike`."""
    best: dict[Key, tuple[tuple[int, float, str], Trial]] = {}
    for trial in trials:
        if result := ledger.result(trial):
            task, seed, key = trial.config.task, trial.config.seed, alike(trial)
            rank = preference(task, seed, result["metric"], float(result["val_value"]), trial.name)
            if key not in best or rank < best[key][0]:
                best[key] = (rank, trial)
    return {key: trial for key, (_, trial) in best.items()}


def keep_best(folder: Path, trials: Sequence[Trial], ledger: Ledger) -> None:
    """Copy, per task, the bundle with the best validation score to best/<task>; in folds that of one fold alone.

    One that is there already is left alone, together with what `usfm evaluate` has written into it.
    """
    points = best_trials([trial for trial in trials if _bundle(trial)], ledger, _point).values()
    best: dict[str, Trial] = {}
    for task in {trial.config.task.name for trial in points}:
        of_task = [trial for trial in points if trial.config.task.name == task]
        fold = common_fold(trial.config.task.fold for trial in of_task)
        together = [trial for trial in of_task if trial.config.task.fold == fold]
        best |= best_trials(together, ledger, lambda trial: trial.config.task.name)
    for other in [path for path in (folder / "best").glob("*/") if path.name not in best]:
        shutil.rmtree(other)
    for task, trial in best.items():
        source, target = Path(trial.config.run_dir) / "best", folder / "best" / task
        if is_bundle(target) and _fingerprint(source) == _fingerprint(target):
            continue
        partial = target.with_name(f".{task}{LEFTOVER}")
        shutil.copytree(source, partial)
        publish_folder(partial, target)


def discard_beaten(trials: Sequence[Trial], ledger: Ledger) -> None:
    """Delete the bundles of finished trials that another one with their task, initialisation and fraction beats.

    Which one is kept in the end does not depend on the order in which trials end; scores stay where they are. What
    the scheduler stopped keeps nothing to go on from either. A trial without its bundle beats none: an older sweep,
    which preferred another one, may have deleted it. This is called after every trial, so the ledger remembers what
    was found and deleted: each trial that ended is looked at once.
    """
    there = [trial for trial in trials if ledger.result(trial) and ledger.has_bundle(trial)]
    kept = {trial.name for trial in best_trials(there, ledger, _point).values()}
    for trial in trials:
        if trial.name not in kept and trial.name not in ledger.discarded and ledger.done(trial):
            run_dir = Path(trial.config.run_dir)
            if not ledger.result(trial):
                shutil.rmtree(run_dir / "state", ignore_errors=True)
            discard_bundle(run_dir / "best")
            ledger.discarded.add(trial.name)


def summarise(table: pd.DataFrame, console: Console, folder: Path) -> None:
    """Say what failed and print the mean test scores."""
    for _, row in table[~table.status.isin([OK, STOPPED])].iterrows():
        console.warn(f"trial {row.task} {row.init} {row.fraction:g} seed {row.seed}: {row.status}")
    done = table[table.status == OK]
    if done.empty:
        return
    cells = done.groupby(["task", "init", "fraction"], sort=False).value.agg(["mean", "min", "max", "count"])
    shown = [
        (cell.task, cell.init, share(cell.fraction), f"{cell['mean']:.3f}",
         f"{cell['min']:.3f} - {cell['max']:.3f}", int(cell["count"]))
        for _, cell in cells.reset_index().iterrows()
    ]  # fmt: skip
    columns = ("task", "init", "labels", "mean", "range", "trials")
    console.table(f"test scores ({folder / TABLE}.csv)", columns, shown)


def _point(trial: Trial) -> tuple[str, str, float]:
    """What the seeds of one point of a curve share."""
    return trial.config.task.name, trial.init, trial.config.fraction


def _bundle(trial: Trial) -> str:
    """Where a trial's bundle lies in the sweep's folder, "" if it was not kept."""
    return f"trials/{trial.name}/best" if is_bundle(Path(trial.config.run_dir) / "best") else ""


def _fingerprint(bundle: Path) -> tuple[BundleSpec, bytes]:
    """What tells two evaluated bundles apart; the spec has the version of the weights."""
    return read_bundle_spec(bundle), (bundle / EVALUATION).read_bytes()


def _scored(trial: Trial) -> Mapping[str, Any]:
    """The evaluation of a trial's best bundle on the test set."""
    path = Path(trial.config.run_dir) / "best" / EVALUATION
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
