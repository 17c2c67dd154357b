"""Linear heads of a sweep, solved instead of trained."""

import sys
from pathlib import Path

import pytest
import yaml
from shard_factory import HEAD, VIEW

from usfm.errors import ConfigError
from usfm.train.finetune_config import FinetuneConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import solved_probe  # noqa: E402

SHAPE = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}


def config_of(shards: Path, task: dict, **values) -> FinetuneConfig:
    frozen = {"shards": str(shards), "encoder": SHAPE, "freeze_encoder": True, "views": "whole"}
    return FinetuneConfig.build({**frozen, "task": {**task, "canvas_px": 64}, **values})


def test_two_brightnesses_are_told_apart_by_features_of_random_weights(small_shards: Path) -> None:
    assert solved_probe.solved_score(config_of(small_shards, VIEW)) == 1.0


@pytest.mark.parametrize("values", [{"head": {"name": "attentive"}}, {"freeze_encoder": False}, {"task": HEAD}])
def test_what_is_no_linear_probe_is_refused(small_shards: Path, values: dict) -> None:
    with pytest.raises(ConfigError, match="no linear head on a frozen encoder"):
        solved_probe.solved_score(config_of(small_shards, **{"task": VIEW, **values}))


def test_points_are_means_over_the_seeds_of_a_sweep(
    small_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solved_probe, "solved_score", lambda config: 0.5 + config.task.fold / 10)
    assert solved_probe.main([f"shards={small_shards}", "--config", "frozen_probe", "--inits", "untrained",
                              "--fractions", "0.2"]) == 0  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        f"{task} untrained 0.2: 0.700 (0.500, 0.600, 0.700, 0.800, 0.900)"
        for task in ("heart_view", "heart_phase", "lung")
    ]


@pytest.mark.parametrize(
    ("inits", "fractions", "said"),
    [
        (["scratch", "scrtch"], ["0.5"], "no trials of --inits scrtch"),
        (["scratch"], ["0.5", "0.3", "1.0"], "no trials of --fractions 0.3"),
        (["scratch", "late"], ["0.5"], "no trials of --inits late among those asked for"),
        (["late"], ["0.5", "1"], "no trials of --fractions 0.5 among those asked for"),
    ],
)
def test_a_name_of_no_trial_is_said_before_any_is_solved(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    inits: list[str], fractions: list[str], said: str,
) -> None:  # fmt: skip
    solved: list[FinetuneConfig] = []
    monkeypatch.setattr(solved_probe, "solved_score", lambda config: solved.append(config) or 0.5)
    with pytest.raises(SystemExit) as status:
        solved_probe.main(["--config", recipe_of(small_shards, tmp_path), "--inits", *inits,
                           "--fractions", *fractions])  # fmt: skip
    assert status.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"sweep.yaml has {said}")
    assert not solved


def test_a_trial_that_is_no_linear_probe_ends_it_with_the_reason(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--config", recipe_of(small_shards, tmp_path), "--inits", "scratch", "--fractions", "0.5"]
    assert solved_probe.main(["finetune.freeze_encoder=false", *asked]) == 1
    assert "no linear head on a frozen encoder" in " ".join(capsys.readouterr().out.split())


def recipe_of(shards: Path, folder: Path) -> str:
    """A sweep in which one initialisation has one of the two label fractions."""
    recipe = folder / "sweep.yaml"
    recipe.write_text(yaml.safe_dump({
        "run_dir": str(folder / "sweep"), "shards": str(shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch", "late": {"init": "scratch", "fractions": [1.0]}}, "fractions": [0.5, 1.0],
        "seeds": [0], "finetune": {"encoder": SHAPE, "freeze_encoder": True, "views": "whole"},
    }))  # fmt: skip
    return str(recipe)
