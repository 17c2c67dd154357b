"""Which trials of a sweep can be named, and which are done."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_jobs.sweep_config import Study, SweepConfig, Trial, studies
from ray_jobs.sweep_search import value_at
from usfm.models.bundle import is_bundle
from usfm.train.rundir import read_config

__all__ = ["Ledger", "known", "known_trials", "open_ended"]

RESULT, STOPPED = "result.json", "stopped.json"


class Ledger:
    """Which trials came to their end on these very shards and first weights, and why others did not.

    Attributes:
        failures: why trials failed in this process, by name.
        found: trials of an Optuna search that `known_trials` has met, by name: done, or failed in this process.
        discarded: names of trials whose bundles this process has deleted.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.found: dict[str, Trial] = {}
        self.discarded: set[str] = set()
        self._bundles: dict[str, bool] = {}  # whether the bundle was there when it was looked for
        self._inputs: dict[tuple[str, str], dict[str, str]] = {}
        self._ended: dict[tuple[str, str], dict[str, Any]] = {}  # asked for after every trial, and never changed

    def inputs(self, trial: Trial) -> dict[str, str]:
        """`FinetuneConfig.inputs`; hashing a checkpoint takes a while, so once per initialisation."""
        key = (trial.config.shards, trial.config.init)
        if key not in self._inputs:
            self._inputs[key] = trial.config.inputs()
        return self._inputs[key]

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """The result of a trial that ran to its end, else None."""
        return self._read(trial, RESULT)

    def stopped(self, trial: Trial) -> dict[str, Any] | None:
        """What the scheduler left of a trial that it stopped early, else None."""
        return self._read(trial, STOPPED)

    def stop(self, trial: Trial, val_value: float | None) -> None:
        """Note that the scheduler stopped a trial, so that it is not run again."""
        note = {"inputs": self.inputs(trial), "val_value": val_value}
        partial = Path(trial.config.run_dir) / f"{STOPPED}.partial"
        partial.write_text(json.dumps(note), encoding="utf-8")
        os.replace(partial, partial.with_name(STOPPED))

    def has_bundle(self, trial: Trial) -> bool:
        """Whether a trial that ran to its end has its bundle; looked for once, as none comes or goes by itself."""
        if trial.name not in self._bundles:
            self._bundles[trial.name] = is_bundle(Path(trial.config.run_dir) / "best")
        return self._bundles[trial.name] and trial.name not in self.discarded

    def done(self, trial: Trial) -> bool:
        """Whether a trial need not run again."""
        return bool(self.result(trial) or self.stopped(trial))

    def count(self, trials: Iterable[Trial]) -> int:
        """How many are done."""
        return sum(self.done(trial) for trial in trials)

    def _read(self, trial: Trial, name: str) -> dict[str, Any] | None:
        if (trial.name, name) in self._ended:
            return self._ended[trial.name, name]
        # unlike `finetune_state.finished` it asks for the inputs only where there is a file: a missing start of a
        # sweep that has not begun is reported by the check of its trials
        try:
            found: dict[str, Any] = json.loads((Path(trial.config.run_dir) / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if found.get("inputs") != self.inputs(trial):
            return None
        return self._ended.setdefault((trial.name, name), found)


def known_trials(config: SweepConfig, study: Study, ledger: Ledger) -> list[Trial]:
    """The trials of an Optuna search that are done, or failed in this process, in the order of their names."""
    at, space = (config.fractions[0], config.seeds[0]), (config.search.space if config.search else {})
    example = study.trial(*at)
    for folder in Path(example.config.run_dir).parent.glob(f"{example.name}-*"):
        if folder.name not in ledger.found and (folder / "config.yaml").exists():
            tree = read_config(folder)
            trial = study.trial(*at, {key: value_at(tree, key) for key in space})
            if trial.name == folder.name and (ledger.done(trial) or trial.name in ledger.failures):
                ledger.found[trial.name] = trial
    ours = (study.task.name, study.init)  # of names alone, `x-1-0-...` may be the init x or x-1-0
    return [trial for _, trial in sorted(ledger.found.items()) if (trial.config.task.name, trial.init) == ours]


def open_ended(config: SweepConfig) -> list[Study]:
    """The studies whose points are chosen while they run."""
    return studies(config) if config.search is not None and config.search.algorithm == "optuna" else []


def known(config: SweepConfig, planned: Mapping[str, Trial], ledger: Ledger) -> list[Trial]:
    """The trials that can be named now."""
    return [*planned.values(), *(t for study in open_ended(config) for t in known_trials(config, study, ledger))]
