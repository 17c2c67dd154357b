"""Linear heads of a sweep, solved instead of trained."""

import sys
from pathlib import Path

import pytest
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
    solved_probe.main([f"shards={small_shards}", "--config", "frozen_probe", "--inits", "untrained",
                       "--fractions", "0.2"])  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        f"{task} untrained 0.2: 0.700 (0.500, 0.600, 0.700, 0.800, 0.900)"
        for task in ("heart_view", "heart_phase", "lung")
    ]
