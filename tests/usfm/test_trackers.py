"""Trackers: missing packages are said at planning, failing servers never reach the run, resume goes on."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from usfm.errors import ConfigError
from usfm.train import trackers
from usfm.train.journal import Journal, read_journal
from usfm.train.pretrain_plan import PretrainConfig, without_data
from usfm.train.tracker_clients import MlflowClient, flat_params
from usfm.train.trackers import Tracker, require_trackers, wanted_trackers

PICTURE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


class Recorder:
    """A tracker that keeps what it gets; `fails` decides which calls raise."""

    def __init__(self, fails: Callable[[int], bool] = lambda call: False) -> None:
        self.calls: list[tuple] = []
        self.tried = 0
        self._fails = fails

    def _note(self, *call: object) -> None:
        self.tried += 1
        if self._fails(self.tried):
            raise ConnectionError("no route to the server")
        self.calls.append(call)

    def start(self, run_dir: Path, config: dict, run_id: str) -> str:
        self._note("start", run_dir.name, config, run_id)
        return run_id or "run-1"

    def describe(self, config: dict) -> None:
        self._note("describe", config)

    def scalars(self, step: int, values: dict) -> None:
        self._note("scalars", step, values)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._note("picture", step, name, pixels.shape)

    def close(self, failed: bool) -> None:
        self._note("close", failed)


def test_rows_and_pictures_arrive_in_order_and_the_folder_knows_the_run(tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    for client in (first, second):
        tracker = Tracker("made", client, tmp_path, {"seed": 3})
        with Journal(tmp_path, trackers=[tracker]) as journal:
            journal.write(1, {"loss": 0.5, "organ_loss": {"heart": 0.25}, "digest": "text"})
            journal.picture(1, "panels", PICTURE)
    rows = [
        ("scalars", 1, {"loss": 0.5, "organ_loss/heart": 0.25}),
        ("picture", 1, "panels", (20, 30, 3)),
        ("close", False),
    ]
    assert first.calls == [("start", tmp_path.name, {"seed": 3}, ""), ("describe", {"seed": 3}), *rows]
    assert second.calls == [("start", tmp_path.name, {"seed": 3}, "run-1"), *rows]  # the same run goes on
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"made": "run-1"}


def test_a_run_that_breaks_is_marked_so(tmp_path: Path) -> None:
    client = Recorder()
    with (
        pytest.raises(RuntimeError, match="broken"),
        Journal(tmp_path, trackers=[Tracker("made", client, tmp_path, {})]),
    ):
        raise RuntimeError("broken")
    assert client.calls[-1] == ("close", True)


def test_a_server_that_is_away_for_a_while_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)
    client = Recorder(fails=lambda call: call in (1, 3, 4))
    tracker = Tracker("made", client, tmp_path, {})
    for step in range(1, 6):
        tracker.scalars(step, {"loss": float(step)})
    deadline = time.monotonic() + 60
    while len(client.calls) < 7 and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    tracker.close()
    assert [call[1] for call in client.calls if call[0] == "scalars"] == [1, 2, 3, 4, 5]
    assert client.calls[0][0] == "start"
    said = [record.message for record in caplog.records]
    assert len(said) == 1  # once, not at every attempt
    assert "ConnectionError: no route to the server; training goes on" in said[0]


def test_an_entry_that_the_server_refuses_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)

    class Picky(Recorder):
        def describe(self, config: dict) -> None:
            self.tried += 1
            raise ValueError("a value of 6,001 characters")

        def scalars(self, step: int, values: dict) -> None:
            if step == 2:
                self.tried += 1
                raise ValueError("no such step")
            super().scalars(step, values)

    client = Picky()
    tracker = Tracker("made", client, tmp_path, {})
    for step in (1, 2, 3):
        tracker.scalars(step, {"loss": 1.0})
    deadline = time.monotonic() + 60
    while len(client.calls) < 3 and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    tracker.close()
    assert [call[:2] for call in client.calls[1:]] == [("scalars", 1), ("scalars", 3), ("close", False)]
    assert client.tried == 4 + 2 * trackers.TRIES  # start, two rows, close; twice all tries
    dropped = [r.message for r in caplog.records if "is dropped" in r.message]
    assert len(dropped) == 1
    assert "failed 5 times and is dropped, as later ones will be: ValueError: a value of" in dropped[0]
    assert "2 entries were not sent" in caplog.records[-1].message


def test_a_start_that_fails_halfway_makes_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is kept before anything is said of the run, by the client and in the run's folder."""
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)
    made, told = [], threading.Event()

    class Server:
        def __init__(self, uri: str) -> None:
            pass

        def get_experiment_by_name(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(experiment_id="1")

        def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
            made.append(f"run-{len(made)}")
            return SimpleNamespace(info=SimpleNamespace(run_id=made[-1]))

        updates = descriptions = 0

        def update_run(self, run_id: str, status: str) -> None:
            self.count("updates", 8)  # more often than an entry is tried: a start is never dropped

        def log_batch(self, run_id: str, params: list) -> None:
            assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": run_id}
            self.count("descriptions", 3)
            told.set()

        def count(self, what: str, failures: int) -> None:
            setattr(Server, what, getattr(Server, what) + 1)
            if getattr(Server, what) <= failures:
                raise ConnectionError(what)

        def set_terminated(self, run_id: str, status: str) -> None:
            pass

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Server))
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Param=lambda *pair: pair))
    tracker = Tracker("mlflow", MlflowClient(), tmp_path, {"seed": 3})
    assert told.wait(60)
    tracker.close()
    assert made == ["run-0"]
    assert [path.name for path in tmp_path.iterdir()] == ["trackers.json"]


def test_a_server_that_never_answers_costs_the_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "QUEUE", 10)
    monkeypatch.setattr(trackers, "CLOSE_S", 0.2)
    gate = threading.Event()

    class Silent(Recorder):
        def start(self, run_dir: Path, config: dict, run_id: str) -> str:
            gate.wait(60)  # as a connection that is accepted and never served
            return "late"

    tracker = Tracker("made", Silent(), tmp_path, {})
    began = time.perf_counter()
    with Journal(tmp_path, trackers=[tracker]) as journal:
        for step in range(1, 101):
            journal.write(step, {"loss": 1.0})
        queued = len(tracker._todo)
        written = time.perf_counter() - began
    gate.set()
    assert [row["step"] for row in read_journal(tmp_path)] == list(range(1, 101))
    assert queued == 10  # the start and the newest rows; memory does not grow
    assert written < 20  # the server was waited for 60 s
    assert "entries were not sent; metrics.jsonl has them" in caplog.text


def test_a_missing_package_is_said_at_planning_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    config = PretrainConfig.build({"tracker": ["mlflow"]})
    with pytest.raises(ConfigError, match=r'mlflow, which is not installed; pip install "usfm-ray\[mlflow\]"'):
        without_data(config, 1)
    require_trackers("none")
    without_data(PretrainConfig(), 1)


def test_the_config_key_takes_one_name_or_several() -> None:
    assert wanted_trackers("none") == []
    assert wanted_trackers("wandb") == ["wandb"]
    assert wanted_trackers(["mlflow", "wandb", "mlflow", "none"]) == ["mlflow", "wandb"]
    with pytest.raises(ConfigError, match="tracker"):
        PretrainConfig.build({"tracker": "comet"})


def test_params_are_the_keys_of_the_command_line() -> None:
    assert flat_params({"a": {"b": {"c": 1}, "d": [2]}, "e": {}, "f": None}) == {
        "a.b.c": 1, "a.d": [2], "e": {}, "f": None,
    }  # fmt: skip


def log_two_starts(name: str, run_dir: Path) -> str:
    """A run that is interrupted after two rows and goes on; returns the tracker's id."""
    for first in (1, 3):
        (tracker,) = trackers.open_trackers(name, run_dir, {"optim": {"lr": 0.5}, "seed": 3})
        for step in (first, first + 1):
            tracker.scalars(step, {"loss": 1 / step, "probe/organ/knn_macro_f1": 0.25})
        tracker.picture(first, "panels", PICTURE)
        tracker.close()
    return json.loads((run_dir / "trackers.json").read_text())[name]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_mlflow_has_one_run_with_params_scalars_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setattr(trackers, "CLOSE_S", 200.0)
    run_dir = tmp_path / "run-a"
    run_dir.mkdir()
    number = log_two_starts("mlflow", run_dir)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("usfm")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (number, "run-a", "FINISHED")
    assert run.data.params == {"optim.lr": "0.5", "seed": "3"}
    history = client.get_metric_history(number, "loss")
    assert [(m.step, m.value) for m in history] == [(s, pytest.approx(1 / s)) for s in (1, 2, 3, 4)]
    assert run.data.metrics["probe/organ/knn_macro_f1"] == 0.25
    shown = [file.path for file in client.list_artifacts(number, "panels")]
    assert shown == ["panels/step-00000001.png", "panels/step-00000003.png"]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_wandb_goes_on_with_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "CLOSE_S", 200.0)
    number = log_two_starts("wandb", tmp_path)
    stored = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert [folder.name.rpartition("-")[2] for folder in stored] == [number, number]
    for folder in stored:
        path, deadline = folder / f"run-{number}.wandb", time.monotonic() + 60
        while b"probe/organ/knn_macro_f1" not in path.read_bytes():  # another process writes it out
            assert time.monotonic() < deadline
            threading.Event().wait(0.1)
        assert tmp_path.name.encode() in path.read_bytes()  # the run's name
        assert len(list((folder / "files" / "media" / "images").glob("panels_*.png"))) == 1
