"""The space and the points of a search."""

from pathlib import Path

import pytest
from shard_factory import VIEW

from ray_jobs import sweep
from ray_jobs.sweep_config import studies
from ray_jobs.sweep_ledger import Ledger, known_trials
from ray_jobs.sweep_search import SearchConfig, draw
from usfm.errors import ConfigError


def config_of(shards: Path, run_dir: Path, **values) -> sweep.SweepConfig:
    encoder = {"size": "nano", "img_px": 32, "patch_px": 8}
    return sweep.SweepConfig.build({
        "run_dir": str(run_dir), "shards": str(shards), "inits": {"scratch": "scratch"}, "fractions": [0.5, 1.0],
        "seeds": [0], "finetune": {"encoder": encoder, "steps": 6}, "tasks": [VIEW], **values,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"optim.lrr": {"uniform": [0, 1]}},
            r"search.space.optim.lrr: 0.0 cannot be run: unknown key optim.lrr; did",
        ),
        ({"layer_decay": {"uniform": [0.5, 1.5]}}, r"search.space.layer_decay: 1.5 cannot be run: layer_decay"),
        ({"batch_size": {"choice": [8, 0]}}, "search.space.batch_size: 0 cannot be run"),
        ({"optim.lr": {"choice": ["1e-3"]}}, "search.space.optim.lr: '1e-3' is read as 0.001; write it so"),
        ({"seed": {"integer": [0, 9]}}, "search.space.seed: the sweep itself sets seed"),
        ({"steps": {"integer": [9, 1]}}, "the lowest value 9 is not below the highest 1"),
        ({"steps": {}}, "give one of uniform, loguniform, integer, choice; got none"),
        ({"optim.lr": {"loguniform": [0, 1]}}, "loguniform starts above 0, got 0"),
    ],
)
def test_a_search_space_is_checked_at_both_ends(small_shards: Path, tmp_path: Path, space: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep.trials(
            config_of(
                small_shards, tmp_path, fractions=[1.0], seeds=[0], search={"space": space, "algorithm": "optuna"}
            )
        )


def test_a_search_runs_at_one_fraction(small_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one label fraction and one seed"):
        sweep.trials(config_of(small_shards, tmp_path, search={"space": {"steps": {"choice": [1]}}}))


def test_points_of_a_random_search_are_the_same_for_all_and_in_range() -> None:
    space = {"a": {"loguniform": [1e-4, 1e-2]}, "b": {"integer": [1, 3]}, "c": {"uniform": [-1, 1]},
             "d": {"choice": ["x", "y"]}}  # fmt: skip
    search = SearchConfig.build({"space": space})
    points = [draw(search, number) for number in range(200)]
    assert points == [draw(search, number) for number in range(200)]
    assert {point["b"] for point in points} == {1, 2, 3}
    assert {point["d"] for point in points} == {"x", "y"}
    assert all(1e-4 <= point["a"] <= 1e-2 and -1 <= point["c"] <= 1 for point in points)
    assert sum(point["a"] < 1e-3 for point in points) == pytest.approx(100, abs=20)  # half of the factors
    # a key more leaves the draws of the others as they are
    more = SearchConfig.build({"space": {"e": {"uniform": [0, 1]}, **space}})
    assert {k: v for k, v in draw(more, 5).items() if k != "e"} == points[5]


def test_searches_whose_names_begin_alike_are_kept_apart(small_shards: Path, tmp_path: Path) -> None:
    search = {"space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}}, "algorithm": "optuna"}
    inits = {"x": "scratch", "x-1-0": "scratch"}
    config = config_of(small_shards, tmp_path, inits=inits, fractions=[1.0], search=search)
    ours, theirs = studies(config)
    trial, ledger = theirs.trial(1.0, 0, {"optim.lr": 1e-3}), Ledger()
    assert trial.name.startswith(f"{ours.trial(1.0, 0).name}-")
    ledger.found[trial.name] = trial
    assert known_trials(config, ours, ledger) == []
    assert known_trials(config, theirs, ledger) == [trial]
