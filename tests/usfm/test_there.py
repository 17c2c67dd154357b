"""A run that goes on while its storage is away: it waits, and neither starts from nothing nor loses a row."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from usfm.data import patience
from usfm.errors import EnvironmentProblem
from usfm.train import journal, pretrain
from usfm.train.context import PlainContext
from usfm.train.journal import read_journal
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.replaced import REPLACED, replaced_rows
from usfm.train.row_file import RowFile
from usfm.train.rundir import open_run
from usfm.train.there import while_there

STEPS, STOP = 6, 4


def config_of(shards: Path, run_dir: Path) -> PretrainConfig:
    return PretrainConfig.build({
        "run_dir": str(run_dir), "seed": 5, "data": {"shards": str(shards), "canvas_px": 64},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "objective": {"spatial_mask": {"unit_px": 8}},
        "batch": {"global_size": 8, "micro_size": 8}, "epochs": 1, "epoch_samples": 8 * STEPS,
        "checkpoint_every": 2, "observe": {"every": 0},
    })  # fmt: skip


def train(config: PretrainConfig, stop_after: int | None = None) -> list[tuple[int, float]]:
    """Train on this process as torchrun does; returns step and loss of every row."""
    context = PlainContext(torch.device("cpu"))
    pretrain.pretrain(
        config, context, lambda stream, plan: pretrain.local_feed(stream, plan, config, context), stop_after,
        opened=True,
    )  # fmt: skip
    return [(row["step"], row["loss"]) for row in read_journal(Path(config.run_dir))]


@pytest.fixture(scope="module")
def interrupted(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """A run that was stopped, and the rows of one that was not."""
    folder = tmp_path_factory.mktemp("interrupted")
    whole, run = (config_of(small_shards, folder / name) for name in ("whole", "run"))
    for config in (whole, run):
        open_run(Path(config.run_dir), config, {})
    rows = train(whole)
    assert train(run, STOP) == rows[:STOP]
    return folder / "run", rows


class Storage:
    """Takes a run's folder away when a function is first called, and gives it back when somebody waits."""

    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch, bare: bool) -> None:
        self.run_dir, self.bare, self.waited = run_dir, bare, 0
        self.elsewhere = run_dir.with_name("elsewhere")
        self.monkeypatch = monkeypatch
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=self._back)
        monkeypatch.setattr(patience, "time", clock)

    def goes_at(self, module: object, name: str) -> None:
        real = getattr(module, name)

        def first(*args, **kwargs):
            self.monkeypatch.setattr(module, name, real)
            self.run_dir.rename(self.elsewhere)
            if self.bare:
                self.run_dir.mkdir()  # the mount point
            return real(*args, **kwargs)

        self.monkeypatch.setattr(module, name, first)

    def _back(self, _: float) -> None:
        self.waited += 1
        if self.elsewhere.exists():
            if self.bare:
                self.run_dir.rmdir()  # fails if anything was written into it
            self.elsewhere.rename(self.run_dir)


@pytest.mark.parametrize("bare", [True, False], ids=["empty", "missing"])
@pytest.mark.parametrize(
    "moment",
    [(pretrain, "while_there"), (pretrain, "latest_checkpoint"), (pretrain, "begin"), (journal, "rows_up_to")],
    ids=["before", "looking for a checkpoint", "loading it", "cutting rows"],
)  # fmt: skip
def test_a_worker_that_starts_waits_for_the_storage(
    moment: tuple[object, str], bare: bool, interrupted: tuple[Path, list], small_shards: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stopped, whole = interrupted
    run_dir = tmp_path / "run"
    shutil.copytree(stopped, run_dir)
    config = config_of(small_shards, run_dir)
    storage = Storage(run_dir, monkeypatch, bare)
    storage.goes_at(*moment)
    assert train(config) == whole
    assert storage.waited == 1


def test_a_storage_that_stays_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda pause: now.__setitem__(0, now[0] + pause))
    monkeypatch.setattr(patience, "time", clock)
    with pytest.raises(EnvironmentProblem, match=r"config\.yaml is not there"):
        while_there(tmp_path / "run", lambda: None)
    assert not (tmp_path / "run").exists()


def test_samples_that_were_replaced_are_listed_once_after_a_restart_with_fewer_workers(tmp_path: Path) -> None:
    for rank in (0, 1):
        before = replaced_rows(tmp_path, rank, 2, start=0)
        for step in (1, 3, 3, 4):
            before.append({"step": step, "index": [rank]})
    again = replaced_rows(tmp_path, 0, 1, start=3)
    for step in (3, 4):
        again.append({"step": step, "index": [0, 1]})
    listed = [row["step"] for row in read_rows(tmp_path / REPLACED / "rank-0.jsonl")]
    assert listed == [1, 3, 4]
    assert [row["step"] for row in read_rows(tmp_path / REPLACED / "rank-1.jsonl")] == [1]


def test_a_file_of_rows_that_was_away_is_not_cut_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / REPLACED / "rank-0.jsonl"
    file = replaced_rows(tmp_path, 0, 1, start=9)
    RowFile(path, make_folder=True).append({"step": 1})  # it is back
    file.append({"step": 9})
    assert [row["step"] for row in read_rows(path)] == [1, 9]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
