"""What the pre-training job decides without a cluster: ranges of workers, what it says, who may write."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from shard_factory import row, write_rows

from ray_jobs import pretrain as job
from ray_jobs.cluster import RAY_ENVIRONMENT, START_TIMEOUT, set_start_timeout
from ray_jobs.console import Console
from ray_jobs.pretrain import PretrainJobConfig, plan, run
from ray_jobs.pretrain_progress import Problems
from usfm.config import load_config
from usfm.errors import ConfigError, DataError, EnvironmentProblem, ShardError
from usfm.train.checkpoint_writer import PROBLEMS
from usfm.train.context import PlainContext
from usfm.train.ownership import OWNER, claim, claim_start, is_owner
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.rundir import open_run, read_config


def config_of(shards: Path, run_dir: Path, *overrides: str) -> PretrainJobConfig:
    small = (
        f"run_dir={run_dir}", f"data.shards={shards}", "data.canvas_px=64", "encoder.size=nano",
        "encoder.img_px=32", "encoder.patch_px=8", "objective.spatial_mask.unit_px=8",
        "batch.global_size=12", "batch.micro_size=4",
    )  # fmt: skip
    return load_config(PretrainJobConfig, None, [*small, *overrides])


def test_a_range_of_workers_is_planned_for_the_most(small_shards: Path, tmp_path: Path) -> None:
    elastic = config_of(small_shards, tmp_path, "workers=[1, 2]")
    assert (elastic.fewest, elastic.most, elastic.elastic) == (1, 2, True)
    assert plan(elastic)["accumulation"] == 2  # three micro-batches on two workers: 2 and 1
    with pytest.raises(ConfigError, match="global_size 12 is not workers"):
        plan(config_of(small_shards, tmp_path, "workers=2"))  # a fixed number gets equal shares
    with pytest.raises(ConfigError, match="3 micro-batches of 4: too few for 4 workers"):
        plan(config_of(small_shards, tmp_path, "workers=[1, 4]"))


def test_a_misspelt_probe_task_is_refused_by_the_driver(small_shards: Path, tmp_path: Path) -> None:
    """Before workers start and before the folder says that it holds this run."""
    task = "{name: view, kind: classification, organs: [heart], classes: {bright: [a], dark: [%s]}}"
    config = config_of(small_shards, tmp_path / "run", f"observe.probe.tasks=[{task % 'bb'}]")
    with pytest.raises(ConfigError, match="probe task view: class 'dark' come from 0 known patients"):
        plan(config)
    with pytest.raises(ConfigError, match="probe task view: class 'dark' come from 0 known patients"):
        run(config, Console())
    assert not (tmp_path / "run").exists()
    assert plan(config_of(small_shards, tmp_path, f"observe.probe.tasks=[{task % 'b'}]"))["resumes_at_step"] == 0
    plan(config.model_copy(update={"observe": config.observe.model_copy(update={"every": 0})}))  # nobody looks


def test_a_label_that_a_probe_refuses_is_said_by_the_driver(tmp_path: Path) -> None:
    """Not hours later, and not by a worker."""
    rows = [row("heart", split, n) for split in ("train", "val") for n in range(12)]
    shards = write_rows(tmp_path / "shards", [*rows, row("heart", "val", 40) | {"label": "covid"}])
    task = "{name: view, kind: classification, organs: [heart], classes: {bright: [a], dark: [b]}%s}"
    config = config_of(shards, tmp_path / "run", f"observe.probe.tasks=[{task % ''}]")
    for starts in (plan, lambda config: run(config, Console())):
        with pytest.raises(DataError, match="probe task view: row made/heart/val_040.png#0 says 'covid'"):
            starts(config)
    assert not (tmp_path / "run").exists()
    lenient = config_of(shards, tmp_path / "run", f"observe.probe.tasks=[{task % ', unlisted: leave_out'}]")
    assert plan(lenient)["resumes_at_step"] == 0
    assert plan(lenient)["probe_notes"] == ["probe task view leaves out: label 'covid' is of no class (1 row)"]


def no_cluster(*_: object) -> None:
    raise EnvironmentProblem("no cluster here")


def test_a_run_with_a_checkpoint_goes_on_without_a_probe_task_that_refuses_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And `--dry-run` says the same of it; what cannot be scored or read is refused as in a new run."""
    monkeypatch.setattr(job, "connect", no_cluster)
    rows = [row("heart", split, n) for split in ("train", "val") for n in range(12)]
    shards = write_rows(tmp_path / "shards", [*rows, row("heart", "val", 40) | {"label": "covid"}])
    task = "{name: %s, kind: classification, organs: [heart], classes: {bright: [a], dark: [%s]}%s}"
    strict, other = task % ("view", "b", ""), task % ("other", "b", ", unlisted: leave_out")

    def of(*tasks: str, shards: Path = shards) -> PretrainJobConfig:
        return config_of(shards, tmp_path / "run", f"observe.probe.tasks=[{', '.join(tasks)}]", "observe.panels=0")

    begun = of(other)
    context = PlainContext(torch.device("cpu"))
    pretrain(begun.science(), context, partial(local_feed, config=begun.science(), context=context), 1)
    refused, left = plan(of(strict, other))["probe_notes"]
    assert refused.startswith("probe task view: row made/heart/val_040.png#0 says 'covid'")
    assert refused.endswith("The run goes on without this probe task, and its feature rank without the task's rows")
    assert left == "probe task other leaves out: label 'covid' is of no class (1 row)"
    with pytest.raises(EnvironmentProblem, match="no cluster here"):  # all checks were passed
        run(of(strict, other), Console())
    said = " ".join(capsys.readouterr().out.split())
    assert refused in said
    assert left in said
    misspelt = of(task % ("view", "bb", ""))
    away = misspelt.observe.probe.model_copy(update={"shards": str(tmp_path / "away")})
    lost = misspelt.model_copy(update={"observe": misspelt.observe.model_copy(update={"probe": away})})
    for config, kind in ((misspelt, ConfigError), (lost, ShardError)):
        for starts in (plan, lambda config: run(config, Console())):
            with pytest.raises(kind):
                starts(config)


def test_workers_find_the_probes_shards_from_elsewhere(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "connect", no_cluster)
    monkeypatch.chdir(small_shards.parent)
    config = config_of(Path(small_shards.name), tmp_path / "run", f"observe.probe.shards={small_shards.name}")
    with pytest.raises(EnvironmentProblem, match="no cluster here"):
        run(config, Console())
    assert read_config(tmp_path / "run")["observe"]["probe"]["shards"] == str(small_shards)


@pytest.mark.parametrize("value", ["[2, 1]", "[0, 2]", "0", "[1, 2, 3]"])
def test_wrong_ranges_are_refused(small_shards: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="workers"):
        config_of(small_shards, tmp_path, f"workers={value}")


def test_a_range_is_the_same_config_when_it_is_read_again(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path / "run", "workers=[1, 2]")
    open_run(tmp_path / "run", config, {})
    open_run(tmp_path / "run", config, {})
    again = PretrainJobConfig.build(read_config(tmp_path / "run"))
    assert again == config


def test_the_start_timeout_of_a_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(START_TIMEOUT, RAY_ENVIRONMENT[START_TIMEOUT])
    set_start_timeout(None)
    assert os.environ[START_TIMEOUT] == RAY_ENVIRONMENT[START_TIMEOUT]
    set_start_timeout(30.0)
    assert os.environ[START_TIMEOUT] == "30"
    monkeypatch.setenv(START_TIMEOUT, "500")
    set_start_timeout(30.0)
    assert os.environ[START_TIMEOUT] == "500"


def test_problems_since_the_start_are_said_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / PROBLEMS
    path.write_text(json.dumps({"time": 0, "step": 1, "problem": "of an earlier job"}) + "\n")
    problems = Problems(tmp_path)
    assert problems.new() == []
    with path.open("a") as file:
        file.write(json.dumps({"time": 0, "step": 8, "problem": "not written: full"}) + "\n" + '{"time"')
    assert problems.new() == ["8 not written: full"]
    with path.open("a") as file:
        file.write(': 0, "step": null, "problem": "passed over"}\n')
    assert problems.new() == ["passed over"]
    assert problems.new() == []
    path.unlink()
    assert problems.new() == []


@pytest.mark.parametrize("newer", [claim, claim_start])
def test_the_newest_claim_owns_the_run_and_others_leave(tmp_path: Path, newer: Callable[[Path], str]) -> None:
    first, start = claim(tmp_path), claim_start(tmp_path)
    assert is_owner(tmp_path, first)
    program = (
        "import sys, threading; from pathlib import Path; from usfm.train.ownership import leave_when_taken; "
        "leave_when_taken(Path(sys.argv[1]), *sys.argv[2:]); print('on', flush=True); threading.Event().wait(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path), first, start]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as worker:
        assert worker.stdout.readline() == b"on\n"
        (tmp_path / OWNER).rename(tmp_path / "away")  # a storage that is away takes nothing over
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(1.5)
        (tmp_path / "away").rename(tmp_path / OWNER)
        newest = newer(tmp_path)
        assert worker.wait(20) == 1
    # the same submission may start its workers again; then it is this one's node that was cut off
    assert is_owner(tmp_path, newest if newer is claim else first)
    assert is_owner(tmp_path, first) == (newer is claim_start)
