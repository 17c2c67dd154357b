"""Two processes over gloo, without Ray: DDP against FSDP2, whose checkpoint a plain process continues, and back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

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


def torchrun(config: PretrainConfig, *arguments: str, processes: int = 2) -> None:
    """Run a config under torchrun, as a user would."""
    run_dir = Path(config.run_dir)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    recipe = run_dir.with_suffix(".yaml")
    recipe.write_text(config.to_yaml() + "workers: 2\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               "-m", "usfm.train.torchrun", "--config", str(recipe), *arguments]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, timeout=200, cwd=run_dir.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "not used under torchrun: workers" in done.stdout


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


@pytest.mark.slow
@pytest.mark.timeout(600)  # eight processes import torch
@pytest.mark.parametrize("kind", ["pixel", "teacher"])
def test_shards_and_replicas_learn_the_same_and_continue_one_another(
    small_shards: Path, tmp_path: Path, kind: str
) -> None:
    objective = {"spatial_mask": {"unit_px": 8}, "kind": kind}
    names = {"pixel": ("loss", "spatial", "frequency", "grad_norm"), "teacher": ("loss", "latent", "grad_norm")}[
        kind
    ]

    def rows(run_dir: Path) -> np.ndarray:
        return np.array([[row[name] for name in names] for row in read_journal(run_dir)])

    def of(name: str, **speed) -> PretrainConfig:
        return config_of(small_shards, tmp_path / name, objective=objective, speed=speed)

    plain(of("plain"))
    torchrun(of("ddp"))
    torchrun(of("fsdp", parallel="fsdp", recompute=True), "--stop-after", "3")
    assert len(rows(tmp_path / "fsdp")) == 3
    half = weights(tmp_path / "fsdp")
    assert {k: v.shape for k, v in half.items()} == {k: v.shape for k, v in weights(tmp_path / "ddp").items()}
    plain(of("fsdp"))  # weights, moments and place in the stream, in one process
    assert len(rows(tmp_path / "plain")) == STEPS
    assert np.allclose(rows(tmp_path / "ddp"), rows(tmp_path / "plain"), rtol=2e-3)
    assert np.allclose(rows(tmp_path / "fsdp"), rows(tmp_path / "plain"), rtol=2e-3)
    plain(of("back"), stop_after=3)
    torchrun(of("back", parallel="fsdp"))  # a plain checkpoint under shards
    assert np.allclose(rows(tmp_path / "back"), rows(tmp_path / "plain"), rtol=2e-3)


@pytest.mark.slow
def test_lanes_that_do_not_divide_evenly_weigh_the_same(small_shards: Path, tmp_path: Path) -> None:
    """Three micro-batches on two workers: one computes two of them, and waits for nobody's shards."""
    uneven = {"batch": {"global_size": 12, "micro_size": 4}, "epoch_samples": 12 * STEPS}
    plain(config_of(small_shards, tmp_path / "plain", **uneven))
    torchrun(config_of(small_shards, tmp_path / "two", **uneven))
    assert len(values(tmp_path / "two")) == STEPS
    assert np.allclose(values(tmp_path / "two"), values(tmp_path / "plain"), rtol=2e-3)
    with pytest.raises(AssertionError, match="is not workers"):  # what torchrun said
        torchrun(config_of(small_shards, tmp_path / "fsdp", speed={"parallel": "fsdp"}, **uneven))


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
