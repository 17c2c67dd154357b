"""Ctrl-C ends a sweep whenever it comes; no cluster here: a made-up Tuner under the handlers that Ray installs."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shard_factory import HEAD, VIEW

from ray_jobs import sweep, sweep_tune
from ray_jobs.signals import handlers_kept
from ray_jobs.sweep_config import Trial
from ray_jobs.sweep_ledger import Ledger
from ray_jobs.sweep_trial import SCORE
from usfm.train.rundir import open_run

VALUES = {"encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 4, "batch_size": 8, "eval_every": 2}
TASKS = [{**HEAD, "canvas_px": 64}, {**VIEW, "canvas_px": 64}]
SIGNALS = (signal.SIGINT, signal.SIGUSR1)


def config_of(shards: Path, run_dir: Path, **values) -> sweep.SweepConfig:
    return sweep.SweepConfig.build({
        "run_dir": str(run_dir), "shards": str(shards), "inits": {"scratch": "scratch"}, "fractions": [1.0],
        "seeds": [0], "finetune": VALUES, "tasks": TASKS, "cache_features": False, **values,
    })  # fmt: skip


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def finish(trial: Trial) -> None:
    """Leave what a trial leaves that came to its end."""
    open_run(Path(trial.config.run_dir), trial.config, {})
    result = {"inputs": trial.config.inputs(), "val_value": 0.5}
    (Path(trial.config.run_dir) / "result.json").write_text(json.dumps(result))


class MadeUpTuner:
    """Ends the trials of its space at once, with the callbacks and the handlers of a run of Tune."""

    made: list["MadeUpTuner"] = []  # noqa: RUF012  (emptied for each test)
    before_the_end: Callable[[], None]  # called while Tune cleans up: after its last step
    trials: Mapping[str, Trial]

    def __init__(self, trainable: Any, *, param_space: dict[str, Any], run_config: Any, **_: Any) -> None:
        self.space, (self.following,) = param_space, run_config.callbacks
        self.made.append(self)

    def fit(self) -> list[SimpleNamespace]:
        from ray.tune.tune import _setup_signal_catching  # its own: a Ray that does otherwise is seen

        _setup_signal_catching()
        self.following.setup()
        configs = [{"trial": spec} for spec in self.space.get("trial", {}).get("grid_search", [])]
        for config in configs:
            finish(self.trials[config["trial"]["name"]])
            ended = SimpleNamespace(last_result={SCORE: 0.5}, config=config)
            self.following.on_trial_complete(iteration=1, trials=[], trial=ended)
        type(self).before_the_end()
        return [SimpleNamespace(config=config, error=None) for config in configs]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of a terminal (a shell's background jobs ignore Ctrl-C); put back after the test, whatever it shows."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> type[MadeUpTuner]:
    """In place of Tune's."""
    from ray import tune

    monkeypatch.setattr(tune, "Tuner", MadeUpTuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, **_: trainable)  # needs a cluster
    monkeypatch.setattr(MadeUpTuner, "made", [])
    monkeypatch.setattr(MadeUpTuner, "before_the_end", lambda: None, raising=False)
    monkeypatch.setattr(MadeUpTuner, "trials", {}, raising=False)
    return MadeUpTuner


def run_of(config: sweep.SweepConfig) -> sweep_tune._Outcome:
    """A run of Tune without trials."""
    (first, *_) = sweep.trials(config).values()
    return sweep_tune._fit(config, first, lambda values: None, {}, lambda: None)


def test_handlers_are_those_from_before_and_ctrl_c_is_seen(
    small_shards: Path, tmp_path: Path, tuner: type[MadeUpTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, before = config_of(small_shards, tmp_path), {number: signal.getsignal(number) for number in SIGNALS}

    def interrupted(at_the_end: Callable[[], None]) -> bool:
        monkeypatch.setattr(tuner, "before_the_end", at_the_end)
        outcome = run_of(config)
        assert {number: signal.getsignal(number) for number in SIGNALS} == before
        return outcome.interrupted

    def fail() -> None:
        raise RuntimeError("of Tune")

    assert not interrupted(lambda: None)
    with pytest.raises(KeyboardInterrupt):
        press()  # while a report is made, say: one press is enough after any number of runs
    assert interrupted(press)
    assert interrupted(lambda: (press(), press()))  # Tune lets the second one through
    assert interrupted(lambda: signal.raise_signal(signal.SIGUSR1))
    assert not interrupted(lambda: None)
    with pytest.raises(RuntimeError, match="of Tune"):
        interrupted(fail)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    assert not interrupted(lambda: None)
    assert interrupted(press)


def test_a_signal_that_keeps_its_handler_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """To set a handler anew would undo one that was installed below Python, as faulthandler does."""
    before, put = signal.getsignal(signal.SIGINT), signal.signal
    touched: list[int] = []

    def seen(number: int, handler: Any) -> Any:
        touched.append(number)
        return put(number, handler)

    monkeypatch.setattr(signal, "signal", seen)
    with handlers_kept() as found:
        put(signal.SIGINT, signal.SIG_IGN)
    assert (touched, found[signal.SIGINT]) == ([signal.SIGINT], signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) == before


def test_outside_of_the_main_thread_nothing_is_taken_for_ctrl_c(
    small_shards: Path, tmp_path: Path, tuner: type[MadeUpTuner]
) -> None:
    outcomes: list[sweep_tune._Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run_of(config_of(small_shards, tmp_path))))
    thread.start()
    thread.join()
    assert [one.interrupted for one in outcomes] == [False]


def test_ctrl_c_after_the_last_trial_of_a_study_ends_the_search(
    small_shards: Path, tmp_path: Path, tuner: type[MadeUpTuner], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {"space": {"layer_decay": {"uniform": [0.5, 1.0]}}, "samples": 2}
    config = config_of(small_shards, tmp_path, search=search)
    planned, ledger = sweep.trials(config), Ledger()
    monkeypatch.setattr(tuner, "trials", planned)
    monkeypatch.setattr(tuner, "before_the_end", press)
    for studies in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            sweep._run_missing(config, planned, ledger)
        assert len(tuner.made) == studies
        assert [ledger.done(trial) for trial in planned.values()] == [n < 2 * studies for n in range(4)]
    sweep._run_missing(config, planned, ledger)  # nothing is missing
    assert len(tuner.made) == 2


@pytest.fixture
def trials(small_shards: Path, tmp_path: Path) -> dict[str, Trial]:
    """Four trials by what becomes of them; "done" came to its end."""
    planned = sweep.trials(config_of(small_shards, tmp_path, tasks=TASKS[1:], seeds=[0, 1, 2, 3])).values()
    named = dict(zip(("done", "stopped", "failed", "cut"), planned, strict=True))
    finish(named["done"])
    open_run(Path(named["stopped"].config.run_dir), named["stopped"].config, {})
    return named


def outcome_of(errors: Mapping[str, str | None], interrupted: bool) -> sweep_tune._Outcome:
    """A run of Tune that made some trials, of which two were completed: one was done, the scheduler stopped one."""
    grid = [SimpleNamespace(config={"is": name}, error=error) for name, error in errors.items()]
    completed = [{"config": {"is": name}, SCORE: score} for name, score in (("done", 0.9), ("stopped", 0.4))]
    return sweep_tune._Outcome(grid, completed, interrupted)


ERRORS = {"done": None, "stopped": None, "failed": "Traceback\n  line\nOSError: disk\n"}


def test_what_became_of_trials_is_noted(trials: dict[str, Trial]) -> None:
    ledger = Ledger()
    sweep_tune._book(outcome_of(ERRORS, False), 3, lambda values: trials[values["is"]], ledger)
    assert ledger.failures == {trials["failed"].name: "OSError: disk"}
    assert {name for name, trial in trials.items() if ledger.done(trial)} == {"done", "stopped"}
    assert {name: (ledger.stopped(trial) or {}).get("val_value") for name, trial in trials.items()} == {
        "done": None, "stopped": 0.4, "failed": None, "cut": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "asked", "interrupted"),
    [
        (ERRORS | {"cut": None}, 4, True),
        (ERRORS | {"cut": "OSError: of an attempt that would have been repeated"}, 4, True),
        ({"done": None, "stopped": None}, 2, True),  # after the last trial
        ({}, 4, True),  # a second Ctrl-C: Tune gives no results
        (ERRORS | {"cut": None}, 4, False),  # whatever else made Tune return early is seen by what is missing
        (ERRORS, 4, False),  # it has not made the last one
    ],
)
def test_an_interruption_leaves_what_it_cut_to_go_on(
    trials: dict[str, Trial], errors: Mapping[str, str | None], asked: int, interrupted: bool
) -> None:
    ledger = Ledger()
    with pytest.raises(KeyboardInterrupt):
        sweep_tune._book(outcome_of(errors, interrupted), asked, lambda values: trials[values["is"]], ledger)
    assert {name for name, trial in trials.items() if Ledger().done(trial)} == {"done", "stopped"}
    assert Ledger().stopped(trials["done"]) is None
    assert trials["cut"].name not in ledger.failures
