"""Two processes over gloo, without Ray: DDP against FSDP2, whose checkpoint a plain process continues, and back."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shard_factory import VIEW

from usfm.config import load_config
from usfm.errors import ConfigError
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.context import PlainContext
from usfm.train.journal import read_journal
from usfm.train.parallel import SpeedConfig
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.torchrun import TorchrunContext

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
OBJECTIVES = {kind: {"spatial_mask": {"unit_px": 8}, "kind": kind} for kind in ("pixel", "teacher")}
SHARDED = {"parallel": "fsdp"}
UNEVEN = {"batch": {"global_size": 12, "micro_size": 4}, "epoch_samples": 12 * STEPS}
OBSERVE = {"every": 3, "panels": 2, "probe": {"tasks": [VIEW], "neighbours": 5, "bootstrap": 0}}
# command lines with their exit status, in processes that have joined already
PROGRAM = """
import json, sys
from pathlib import Path
from unittest.mock import patch
from usfm.train import torchrun

context = torchrun.TorchrunContext()
leave, context.close = context.close, lambda: None
with patch.object(torchrun, "TorchrunContext", lambda: context):
    for line, status in json.loads(Path(sys.argv[1]).read_text()):
        assert torchrun.main(line) == status, line
leave()
"""


def config_of(shards: Path, run_dir: Path, **values) -> PretrainConfig:
    base = {
        "run_dir": str(run_dir), "seed": 5,
        "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 24}},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
        "objective": {"spatial_mask": {"unit_px": 8}},
        "batch": {"global_size": 16, "micro_size": 4}, "epochs": 1, "epoch_samples": 16 * STEPS,
        "optim": {"lr": 0.01}, "checkpoint_every": 3,
    }  # fmt: skip
    return PretrainConfig.build(base | values)


def launch(folder: Path, *program: str) -> str:
    """Run a program in two processes under torchrun; returns what it printed, messages last."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *program]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=540, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def line_of(config: PretrainConfig, *arguments: str) -> list[str]:
    """The command line of a run, whose recipe is written."""
    run_dir = Path(config.run_dir)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    recipe = run_dir.with_suffix(".yaml")
    recipe.write_text(config.to_yaml() + "workers: 2\n")
    return ["--config", str(recipe), *arguments]


def plain(config: PretrainConfig, stop_after: int | None = None) -> None:
    context = PlainContext(torch.device("cpu"))
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context), stop_after)


def values(run_dir: Path) -> np.ndarray:
    """(steps, 4): losses and gradient norm."""
    return np.array(
        [[row[n] for n in ("loss", "spatial", "frequency", "grad_norm")] for row in read_journal(run_dir)]
    )


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run_dir) / "model.safetensors")


@dataclass(frozen=True)
class Spread:
    """What two processes left: a folder per run, and what they printed."""

    folder: Path
    shards: Path
    said: str

    def of(self, name: str, **values) -> PretrainConfig:
        return config_of(self.shards, self.folder / name, **values)


@pytest.fixture(scope="module")
def spread(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Spread:
    """All runs of two processes, one after another in the same two: a start of them costs more than ten runs."""
    made = Spread(tmp_path_factory.mktemp("spread"), small_shards, "")
    lines = []
    for kind, objective in OBJECTIVES.items():
        plain(made.of(f"{kind}/back", objective=objective), stop_after=3)
        lines += [
            (line_of(made.of(f"{kind}/ddp", objective=objective)), 0),
            (line_of(made.of(f"{kind}/fsdp", objective=objective, speed=SHARDED | {"recompute": True}),
                     "--stop-after", "3"), 0),
            (line_of(made.of(f"{kind}/back", objective=objective, speed=SHARDED)), 0),
        ]  # fmt: skip
    for parallel in ("ddp", "fsdp"):
        config = made.of(f"observed/{parallel}/run", observe=OBSERVE, speed={"parallel": parallel})
        lines.append((line_of(config), 0))
    lines.append((line_of(made.of("uneven/fsdp", speed=SHARDED, **UNEVEN)), 2))
    unknown = VIEW | {"classes": {"bright": ["a"], "oblique": ["c"]}}
    lines.append((line_of(made.of("unscored", observe=OBSERVE | {"probe": {"tasks": [unknown]}})), 2))
    program, planned = made.folder / "program.py", made.folder / "lines.json"
    program.write_text(PROGRAM)
    planned.write_text(json.dumps(lines))
    return replace(made, said=launch(made.folder, str(program), str(planned)))


@pytest.mark.slow
@pytest.mark.timeout(600)  # three processes import torch
@pytest.mark.parametrize("kind", ["pixel", "teacher"])
def test_shards_and_replicas_learn_the_same_and_continue_one_another(spread: Spread, kind: str) -> None:
    names = {"pixel": ("loss", "spatial", "frequency", "grad_norm"), "teacher": ("loss", "latent", "grad_norm")}[
        kind
    ]

    def folder(name: str) -> Path:
        return spread.folder / kind / name

    def rows(name: str) -> np.ndarray:
        return np.array([[row[column] for column in names] for row in read_journal(folder(name))])

    plain(spread.of(f"{kind}/plain", objective=OBJECTIVES[kind]))
    assert len(rows("fsdp")) == 3
    half = weights(folder("fsdp"))
    assert {k: v.shape for k, v in half.items()} == {k: v.shape for k, v in weights(folder("ddp")).items()}
    # weights, moments and place in the stream, in one process
    plain(spread.of(f"{kind}/fsdp", objective=OBJECTIVES[kind]))
    assert len(rows("plain")) == STEPS
    assert np.allclose(rows("ddp"), rows("plain"), rtol=2e-3)
    assert np.allclose(rows("fsdp"), rows("plain"), rtol=2e-3)
    # a plain checkpoint under shards
    assert np.allclose(rows("back"), rows("plain"), rtol=2e-3)


@pytest.mark.slow
def test_shards_are_observed_like_replicas(spread: Spread) -> None:
    rows = {}
    for parallel in ("ddp", "fsdp"):
        run_dir = spread.folder / "observed" / parallel / "run"
        rows[parallel] = list(read_journal(run_dir))
        assert len(list((run_dir / "panels").iterdir())) == 2
    for ours, theirs in zip(rows["ddp"], rows["fsdp"], strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            if name.startswith(("grad/", "rank/", "mix/")):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    observed = rows["fsdp"][2]
    assert {"probe/view/linear_macro_f1", "rank/rankme", "grad/decoder"} <= set(observed)
    squares = sum(value**2 for name, value in observed.items() if name.startswith("grad/"))
    assert squares**0.5 == pytest.approx(observed["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_lanes_that_do_not_divide_evenly_weigh_the_same(spread: Spread) -> None:
    """Three micro-batches on two workers: one computes two of them, and waits for nobody's shards."""
    plain(spread.of("uneven/plain", **UNEVEN))
    # as a user runs it
    said = launch(spread.folder, "-m", "usfm.train.torchrun", *line_of(spread.of("uneven/two", **UNEVEN)))
    assert "not used under torchrun: workers" in said
    two, one = (values(spread.folder / "uneven" / name) for name in ("two", "plain"))
    assert len(two) == STEPS
    assert np.allclose(two, one, rtol=2e-3)
    assert "is not workers" in spread.said  # of shards


@pytest.mark.slow
def test_a_probe_task_that_cannot_be_scored_is_refused_by_every_process(spread: Spread) -> None:
    assert spread.said.count("probe task view: class 'oblique' come from 0 known patients") == 2
    assert not (spread.folder / "unscored").exists()


def test_recomputing_changes_nothing_and_drops_the_same_paths(small_shards: Path, tmp_path: Path) -> None:
    plain(config_of(small_shards, tmp_path / "kept"))
    plain(config_of(small_shards, tmp_path / "again", speed={"recompute": True}))
    assert np.array_equal(values(tmp_path / "kept"), values(tmp_path / "again"))
    kept, again = weights(tmp_path / "kept"), weights(tmp_path / "again")
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="compile works with parallel ddp alone"):
        SpeedConfig.build({"compile": True, "parallel": "fsdp"})


def test_outside_torchrun_it_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="RANK is not set: start this with torchrun"):
        TorchrunContext()


def test_every_key_of_speed_is_a_key_of_the_recipe() -> None:
    config = load_config(PretrainConfig, None, ["speed.parallel=fsdp", "speed.gradients=bf16"])
    assert (config.speed.parallel, config.speed.gradients) == ("fsdp", "bf16")
