"""The tables of a sweep: what its trials wrote, in one form for every number and chart of the report.

results.parquet   one row per trial: task, kind, init, network, fraction, seed, train_items, train_groups, metric,
                  value (test), val_value, seconds, status ("ok", or why there is no score), bundle
                  ("" if it was not kept), score_<name>
items.parquet     one row per test image of each trial that came to its end: task, init, fraction, seed, id, group,
                  organ, source, split (in the shards), value, and what the kind of task adds (see
                  `usfm.metrics.items`)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from usfm.data.task_config import TaskConfig
from usfm.errors import DataError
from usfm.metrics.preference import preference
from usfm.models.task_model import USFM
from usfm.train.durable import replace_file
from usfm.train.finetune_config import SCRATCH
from usfm.train.rundir import read_config
from usfm.train.sweep_values import entry_of, shared_values

__all__ = ["SweepTables", "read_sweep", "write_table"]

RESULTS, ITEMS = "results.parquet", "items.parquet"
RESULT_COLUMNS = (
    *("task", "kind", "init", "network", "fraction", "seed", "train_items", "train_groups"),
    *("metric", "value", "val_value", "seconds", "status", "bundle"),
)
ITEM_COLUMNS = ("task", "init", "fraction", "seed", "id", "group", "organ", "source", "value")


@dataclass(frozen=True)
class SweepTables:
    """A sweep as it lies on the disk.

    Attributes:
        folder: of the sweep.
        config: its resolved config.
        task_configs: its tasks by name.
        results: one row per trial, in the order of the sweep.
        items: one row per test image and finished trial.
    """

    folder: Path
    config: Mapping[str, Any]
    task_configs: Mapping[str, TaskConfig]
    results: pd.DataFrame
    items: pd.DataFrame

    @property
    def done(self) -> pd.DataFrame:
        """The trials that have a score."""
        return self.results[self.results.status == "ok"]

    @property
    def failed(self) -> pd.DataFrame:
        """The trials that have none."""
        return self.results[self.results.status != "ok"]

    @property
    def tasks(self) -> list[str]:
        """Tasks with a score, in the order of the sweep."""
        return list(dict.fromkeys(self.done.task))

    @property
    def seeds(self) -> int:
        """Number of seeds of which a trial has a score."""
        return int(self.done.seed.nunique())

    @property
    def inits(self) -> list[str]:
        """Initialisations in the order of the config."""
        known = list(self.config.get("inits", {}))
        return sorted(
            dict.fromkeys(self.results.init), key=lambda name: known.index(name) if name in known else len(known)
        )

    @property
    def base(self) -> str | None:
        """The initialisation that others are compared with: the one from scratch; None = there is none."""
        scratch = [name for name in self.inits if self._is_scratch(name)]
        return scratch[0] if scratch else None

    def shown_run(self, task: str, init: str, fraction: float) -> Mapping[Any, Any] | None:
        """The row of the run that stands for all seeds of a point, by the rule of the sweep; None = no score there.

        It is one of those whose bundles were kept, where there are any.
        """
        rows = self.done
        rows = rows[(rows.task == task) & (rows.init == init) & (rows.fraction == fraction)]
        kept, of = rows[rows.bundle != ""], self.task_configs[task]
        return min(
            (rows if kept.empty else kept).to_dict("records"),
            key=lambda row: preference(of, row["seed"], row["metric"], row["val_value"], row["bundle"]),
            default=None,
        )

    def start(self, task: str, init: str) -> str:
        """What an initialisation starts from in a task, as the sweep states it: "scratch" or a path."""
        return str(shared_values(self.config, task, init).get("init", SCRATCH))

    def own_settings(self, init: str) -> dict[str, Any]:
        """What the config says of an initialisation beyond what it starts from and where it is tried."""
        places = ("init", "network", "tasks", "fractions")
        stated = entry_of(self.config.get("inits", {}).get(init, {}))
        return {key: value for key, value in stated.items() if key not in places}

    def _is_scratch(self, name: str) -> bool:
        """Whether an initialisation is our network without pre-training, in every task that it is tried in."""
        tasks = self.results[self.results.init == name].task.unique()
        networks = (shared_values(self.config, task, name).get("network", USFM) for task in tasks)
        return all(self.start(task, name) == SCRATCH for task in tasks) and all(one == USFM for one in networks)

    @cached_property
    def _by_run(self) -> dict[tuple[str, str, float, int], list[dict[str, Any]]]:
        """Items by task, initialisation, fraction and seed, in the order of their ids, without empty cells."""
        made: dict[tuple[str, str, float, int], list[dict[str, Any]]] = {}
        for cells in self.items.sort_values("id").to_dict("records"):
            row = {str(name): value for name, value in cells.items() if not pd.isna(value)}
            if self.task_configs[row["task"]].kind == "regression":  # text where another task's truth is a name
                row |= {name: float(row[name]) for name in ("truth", "predicted")}
            key = (row["task"], row["init"], float(row["fraction"]), int(row["seed"]))
            made.setdefault(key, []).append(row)
        return made

    def runs(self, task: str, init: str, fraction: float) -> dict[int, list[dict[str, Any]]]:
        """Items of each finished trial by seed, in the order of ids: one set, or of a task in folds one per fold.

        Raises:
            DataError: the trials of a fold (of a task without folds: all) were not scored on the same items, or two
                folds share one.
        """
        runs = {key[3]: rows for key, rows in self._by_run.items() if key[:3] == (task, init, fraction)}
        sets = {(self.task_configs[task].of_seed(seed).fold, tuple(row["id"] for row in rows))
                for seed, rows in runs.items()}  # fmt: skip
        folds, tested = {fold for fold, _ in sets}, [name for _, ids in sets for name in ids]
        if len(sets) > len(folds) or len(set(tested)) < len(tested):
            raise DataError(
                f"{self.folder}: seeds of {task} {init} at {fraction:g} were scored on different test items; "
                "delete the older trials and run the sweep again"
            )
        return runs


def read_sweep(folder: Path) -> SweepTables:
    """Read a sweep's config and tables.

    Raises:
        ConfigError: the folder holds no sweep.
        DataError: a table or one of its columns is missing, or it is a search.
    """
    config = read_config(folder)
    if config.get("search"):
        raise DataError(f"{folder} holds a search, whose trials are no points of curves; see its results.csv")
    tasks = [TaskConfig.build(task) for task in config.get("tasks", [])]
    results, items = _read(folder / RESULTS, RESULT_COLUMNS), _read(folder / ITEMS, ITEM_COLUMNS)
    return SweepTables(folder, config, {task.name: task for task in tasks}, results, items)


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One table as CSV and as Parquet; nothing is written, and an older file removed, where there are no rows."""
    paths = folder / f"{name}.csv", folder / f"{name}.parquet"
    for path in paths:
        path.unlink(missing_ok=True)
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(list(rows))
    replace_file(paths[0], lambda path: table.to_csv(path, index=False))
    replace_file(paths[1], lambda path: table.to_parquet(path, index=False))


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"{path} is missing: {path.parent} is no finished sweep; `usfm sweep` writes it")
    table = pd.read_parquet(path)
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"{path} has no column {', '.join(missing)}; run the sweep again with this version")
    return table
