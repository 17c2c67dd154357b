"""The trials of a sweep on Ray Tune: which are done, and running those that are not."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_jobs.features import FOLDER, cache_features, common_features
from ray_jobs.sweep_config import Study, SweepConfig, Trial
from ray_jobs.sweep_search import SearchRange, value_at
from ray_jobs.sweep_trial import IN_VAIN, SCORE, run_planned, run_searched
from usfm.metrics.evaluation import HIGHER_IS_BETTER, METRIC
from usfm.models.bundle import is_bundle
from usfm.train.rundir import read_config

__all__ = ["TUNE", "Ledger", "known_trials", "run_study", "run_trials"]

RESULT, STOPPED = "result.json", "stopped.json"
TUNE = "tune"
"""Folder of Tune's own records and TensorBoard files in the sweep's folder."""


class Ledger:
    """Which trials came to their end on these very shards and first weights, and why others did not.

    Attributes:
        failures: why trials failed in this process, by name.
        found: trials of a search that are done, by name.
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


def run_trials(config: SweepConfig, waiting: Iterable[Trial], ledger: Ledger, ended: Callable[[], None]) -> None:
    """Run trials; the reasons of those that fail go to the ledger; `ended` is called after each that does not."""
    from ray import tune

    by_name = {trial.name: trial for trial in waiting}
    features: dict[str, Path] = {}
    if config.cache_features and not config.workers_per_trial:
        runs = {name: trial.config for name, trial in by_name.items()}
        root = Path(config.run_dir).absolute() / FOLDER
        features = cache_features(runs, root, config.max_concurrent, config.cpus_per_trial, config.gpus_per_trial)
    specs = [
        {"name": name, "config": trial.config.model_dump(mode="json"), "features": str(features.get(name, ""))}
        for name, trial in by_name.items()
    ]
    trainable = tune.with_parameters(run_planned, placement=_placement(config))
    first = next(iter(by_name.values()))
    space = {"trial": tune.grid_search(specs)}
    grid, completed = _fit(config, first, trainable, space, ended, trial_dirname_creator=_name)
    _book(grid, completed, len(specs), lambda values: by_name[values["trial"]["name"]], ledger)


def run_study(config: SweepConfig, study: Study, ledger: Ledger, ended: Callable[[], None]) -> None:
    """Run what is missing of an Optuna search of one task and initialisation; `ended` is called after each trial.

    The scores of trials that are there already are told to Optuna first, so a search that was cut goes on.
    """
    search, at = config.search, (config.fractions[0], config.seeds[0])
    assert search is not None
    known = known_trials(config, study, ledger)
    if (missing := search.samples - len(known)) <= 0:
        return
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    scores = [(ledger.result(trial) or ledger.stopped(trial) or {})["val_value"] for trial in known]
    algorithm = OptunaSearch(
        space=OptunaSearch.convert_search_space({key: _domain(span) for key, span in search.space.items()}),
        metric=SCORE,
        mode=_mode(study.trial(*at)),
        points_to_evaluate=[dict(trial.searched) for trial in known] or None,
        evaluated_rewards=scores or None,
        seed=search.seed + len(known),  # the same seed would propose the first points again
    )
    trainable = tune.with_parameters(
        run_searched, study=study, at=at, placement=_placement(config), features=_features_of(config, study)
    )
    options = {"search_alg": algorithm, "num_samples": missing}
    grid, completed = _fit(config, study.trial(*at), trainable, {}, ended, **options)
    _book(grid, completed, missing, lambda values: study.trial(*at, values), ledger)


def _features_of(config: SweepConfig, study: Study) -> str:
    """The features that every point of an Optuna search can learn from; "" = there are none."""
    search, at = config.search, (config.fractions[0], config.seeds[0])
    if search is None or config.workers_per_trial or not config.cache_features:
        return ""
    ends = [study.trial(*at, {key: value}).config for key, span in search.space.items() for value in span.ends()]
    root = Path(config.run_dir).absolute() / FOLDER
    found = common_features(ends, root, config.max_concurrent, config.cpus_per_trial, config.gpus_per_trial)
    return str(found or "")


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
    return [trial for name, trial in sorted(ledger.found.items()) if name.startswith(f"{example.name}-")]


def _fit(
    config: SweepConfig,
    example: Trial,
    trainable: Any,
    space: dict[str, Any],
    ended: Callable[[], None],
    **options: Any,
) -> tuple[Any, list[Mapping[str, Any]]]:
    """Run one Tuner to its end; returns its grid of results, and the last report of each trial that it let go."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    alone = config.workers_per_trial == 0
    # a trial that waits for Ray Train workers must not hold the CPU that they need
    resources = {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial} if alone else {"cpu": 0.01}
    scheduler = FIFOScheduler()
    if config.search is not None and config.search.scheduler == "asha":
        most = example.config.steps
        grace = max(1, round(config.search.grace * most))
        scheduler = ASHAScheduler("step", metric=SCORE, mode=_mode(example), max_t=most, grace_period=grace)
    following = _following(ended)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=config.max_concurrent,
            scheduler=scheduler,
            reuse_actors=alone,  # importing torch costs more than a small trial
            **options,
        ),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(Path(config.run_dir).absolute()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=config.retries),
            callbacks=[following],
        ),
    )
    return tuner.fit(), following.completed


def _following(ended: Callable[[], None]) -> Any:
    """Call `ended` after each trial that does not fail, and let Tune not retry one that would fail again."""
    from ray import tune

    class Following(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.completed: list[Mapping[str, Any]] = []  # last reports, of those that ended and that were stopped

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            if IN_VAIN in result:
                trial.max_failures = 0  # Tune's limit is one for all trials and all errors

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.completed.append({**trial.last_result, "config": trial.config})
            ended()

    return Following()


def _book(
    grid: Any,
    completed: Iterable[Mapping[str, Any]],
    asked: int,
    trial_of: Callable[[Mapping[str, Any]], Trial],
    ledger: Ledger,
) -> None:
    """Note what did not come to its end: failed, or stopped by the scheduler.

    Args:
        grid: Tune's results, of the trials that it made.
        completed: last reports of those that ended or were stopped.
        asked: how many trials there should be.
        trial_of: the trial of a Tune config.
        ledger: where it is noted.

    Raises:
        KeyboardInterrupt: the sweep was interrupted, which Tune keeps to itself; trials that it cut are not done.
    """
    of_grid = [(trial_of(result.config), result) for result in grid]
    for trial, result in of_grid:
        if result.error and not ledger.done(trial):
            ledger.failures[trial.name] = str(result.error).strip().splitlines()[-1]
    for report in completed:
        trial = trial_of(report["config"])
        if trial.name not in ledger.failures and not ledger.done(trial):
            ledger.stop(trial, report[SCORE])
    ended = sum(trial.name in ledger.failures or ledger.done(trial) for trial, _ in of_grid)
    if ended < asked:
        raise KeyboardInterrupt


def _domain(span: SearchRange) -> Any:
    from ray import tune

    if span.choice is not None:
        return tune.choice(span.choice)
    if span.integer is not None:
        return tune.randint(span.integer[0], span.integer[1] + 1)
    return tune.loguniform(*span.loguniform) if span.loguniform else tune.uniform(*(span.uniform or ()))


def _mode(trial: Trial) -> str:
    return "max" if HIGHER_IS_BETTER[METRIC[trial.config.task.kind]] else "min"


def _name(trial: Any) -> str:
    name: str = trial.config["trial"]["name"]
    return name


def _placement(config: SweepConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("workers_per_trial", "cpus_per_trial", "gpus_per_trial")}
