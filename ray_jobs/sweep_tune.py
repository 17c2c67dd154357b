"""Running the trials of a sweep that are not done, on Ray Tune."""

import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.features import FOLDER, cache_features, common_features
from ray_jobs.signals import handlers_kept
from ray_jobs.sweep_config import Study, SweepConfig, Trial
from ray_jobs.sweep_ledger import Ledger, known_trials
from ray_jobs.sweep_search import SearchRange
from ray_jobs.sweep_trial import IN_VAIN, SCORE, run_planned, run_searched
from usfm.metrics.evaluation import HIGHER_IS_BETTER, METRIC

__all__ = ["TUNE", "run_study", "run_trials"]

TUNE = "tune"
"""Folder of Tune's own records and TensorBoard files in the sweep's folder."""


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
    outcome = _fit(config, first, trainable, space, ended, trial_dirname_creator=_name)
    _book(outcome, len(specs), lambda values: by_name[values["trial"]["name"]], ledger)


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
    outcome = _fit(config, study.trial(*at), trainable, {}, ended, **options)
    _book(outcome, missing, lambda values: study.trial(*at, values), ledger)


def _features_of(config: SweepConfig, study: Study) -> str:
    """The features that every point of an Optuna search can learn from; "" = there are none."""
    search, at = config.search, (config.fractions[0], config.seeds[0])
    if search is None or config.workers_per_trial or not config.cache_features:
        return ""
    ends = [study.trial(*at, {key: value}).config for key, span in search.space.items() for value in span.ends()]
    root = Path(config.run_dir).absolute() / FOLDER
    found = common_features(ends, root, config.max_concurrent, config.cpus_per_trial, config.gpus_per_trial)
    return str(found or "")


@dataclass(frozen=True)
class _Outcome:
    """What a run of Tune leaves.

    Attributes:
        grid: the results of the trials that it made; none where a second Ctrl-C ended it.
        completed: last reports of the trials that ended or that the scheduler stopped.
        interrupted: whether Ctrl-C came, which Tune keeps to itself; one before its first step may show alone
            in the trials that it did not make (`_book`).
    """

    grid: Iterable[Any]
    completed: Iterable[Mapping[str, Any]]
    interrupted: bool


def _fit(
    config: SweepConfig,
    example: Trial,
    trainable: Any,
    space: dict[str, Any],
    ended: Callable[[], None],
    **options: Any,
) -> _Outcome:
    """Run one Tuner to its end, or to a Ctrl-C; the handlers of signals are those from before again."""
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
    grid: Iterable[Any] = ()
    raised = False
    before = signal.getsignal(signal.SIGINT)
    with handlers_kept() as found:
        try:
            grid = tuner.fit()
        except KeyboardInterrupt:  # the second one, or Tune does not catch any (TUNE_DISABLE_SIGINT_HANDLER)
            raised = True
    # Tune's handler, where it was installed, is gone once it is called: it puts back the one from before
    called = following.handler not in (None, before) and found.get(signal.SIGINT) == before
    return _Outcome(grid, following.completed, raised or called)


def _following(ended: Callable[[], None]) -> Any:
    """Call `ended` after each trial that does not fail, and let Tune not retry one that would fail again."""
    from ray import tune

    class Following(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.completed: list[Mapping[str, Any]] = []  # last reports, of those that ended and that were stopped
            self.handler: Any = None  # of Ctrl-C while Tune runs, if in this process

        def setup(self, *_: Any, **__: Any) -> None:
            self.handler = signal.getsignal(signal.SIGINT)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            if IN_VAIN in result:
                trial.max_failures = 0  # Tune's limit is one for all trials and all errors

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.completed.append({**trial.last_result, "config": trial.config})
            ended()

    return Following()


def _book(outcome: _Outcome, asked: int, trial_of: Callable[[Mapping[str, Any]], Trial], ledger: Ledger) -> None:
    """Note what did not come to its end: failed, or stopped by the scheduler.

    Args:
        outcome: by a run of Tune.
        asked: how many trials there should be.
        trial_of: the trial of a Tune config.
        ledger: where it is noted.

    Raises:
        KeyboardInterrupt: the run was interrupted; trials that it cut are not done, and none counts as failed.
    """
    of_grid = [(trial_of(result.config), result) for result in outcome.grid]
    if not outcome.interrupted:  # else a trial that waits for its next attempt has an error too
        for trial, result in of_grid:
            if result.error and not ledger.done(trial):
                ledger.failures[trial.name] = str(result.error).strip().splitlines()[-1]
    for report in outcome.completed:
        trial = trial_of(report["config"])
        if trial.name not in ledger.failures and not ledger.done(trial):
            ledger.stop(trial, report[SCORE])
    # a Ctrl-C before the first step shows in the count alone: Tune has made no trial
    ended = sum(trial.name in ledger.failures or ledger.done(trial) for trial, _ in of_grid)
    if outcome.interrupted or ended < asked:
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
