"""Which trials' bundles a sweep keeps."""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path

import pandas as pd
import pytest
from shard_factory import VIEW

from ray_jobs import sweep
from ray_jobs.console import Console
from ray_jobs.sweep_config import Trial
from ray_jobs.sweep_ledger import Ledger
from ray_jobs.sweep_table import best_trials, discard_beaten, keep_best
from usfm.models import bundle as bundles
from usfm.models.bundle import discard_bundle, is_bundle, load_bundle
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune

VALUES = {
    "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}, "steps": 4, "batch_size": 8,
    "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 8},
}  # fmt: skip


def config_of(shards: Path, run_dir: Path, **values) -> sweep.SweepConfig:
    return sweep.SweepConfig.build({
        "run_dir": str(run_dir), "shards": str(shards), "inits": {"scratch": "scratch"}, "fractions": [0.5, 1.0],
        "seeds": [0, 1, 2], "finetune": VALUES, "tasks": [{**VIEW, "canvas_px": 64}], "max_concurrent": 1, **values,
    })  # fmt: skip


FOLDS = {**VIEW, "canvas_px": 64, "split_by": "folds", "folds": 3}


@pytest.fixture(scope="module")
def bundle(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated bundle."""
    config = config_of(small_shards, tmp_path_factory.mktemp("trained"), seeds=[0], fractions=[1.0])
    (trial,) = sweep.trials(config).values()
    finetune(trial.config, PlainContext())
    return Path(trial.config.run_dir) / "best"


def end(trial: Trial, bundle: Path, val_value: float) -> None:
    """Leave what a trial leaves that came to its end with a validation score; its evaluation says whose it is."""
    run_dir = Path(trial.config.run_dir)
    shutil.copytree(bundle, run_dir / "best")
    (run_dir / "best" / "evaluation.json").write_text(json.dumps({"of": trial.name}))
    result = {"inputs": trial.config.inputs(), "metric": "balanced_accuracy", "val_value": val_value}
    (run_dir / "result.json").write_text(json.dumps(result))


def left_after(
    planned: Mapping[str, Trial], order: Sequence[str], scores: Mapping[str, float], bundle: Path
) -> set:
    """Trials whose bundles are kept when trials end in an order and the others fail; their folders are emptied."""
    ledger = Ledger()
    for name in order:
        end(planned[name], bundle, scores[name])
        discard_beaten([*planned.values()], ledger)
    left = kept([*planned.values()])
    for name in order:
        shutil.rmtree(planned[name].config.run_dir)
    return left


def kept(trials: Sequence[Trial]) -> set[str]:
    return {trial.name for trial in trials if is_bundle(Path(trial.config.run_dir) / "best")}


def best_of(folder: Path) -> set[str]:
    """Names of the trials that should be kept, from the table."""
    table = pd.read_csv(folder / "results.csv")
    rows = table.loc[table.groupby("fraction").val_value.idxmax()]  # the first of equals
    return {f"view-scratch-{row.fraction:g}-{row.seed}" for _, row in rows.iterrows()}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_only_the_best_bundle_of_each_point_is_kept_and_a_resume_misses_nothing(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []

    def watched(trials: Sequence[Trial], ledger: Ledger) -> None:
        discard_beaten(trials, ledger)
        met.append((ledger.count(trials), len(kept(trials))))

    monkeypatch.setattr(sweep, "discard_beaten", watched)
    config = config_of(small_shards, tmp_path)
    folder, planned = sweep.run(config, Console()), list(sweep.trials(config).values())
    assert [done for done, _ in met] == [1, 2, 3, 4, 5, 6, 6]  # after every trial, and at the end
    assert all(bundles <= 3 for _, bundles in met)  # one for each fraction, and that of the trial that runs
    assert kept(planned) == best_of(folder)
    table = pd.read_parquet(folder / "results.parquet")
    assert set(table.status) == {"ok"}
    assert {path for path in table.bundle if path} == {f"trials/{name}/best" for name in kept(planned)}
    assert len(pd.read_parquet(folder / "items.parquet")) == 6 * 8
    page = (folder / "report.html").read_text()
    assert "Worst cases" in page
    assert "Robustness" in page
    best = table.loc[table.val_value.idxmax()]
    assert load_bundle(folder / "best" / "view")[1] == load_bundle(folder / str(best.bundle))[1]
    # going on: nothing is missing, so nothing runs
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/*") if path.name != "config.yaml"}
    assert sweep.plan(config)["done"] == 6
    sweep.run(config, Console())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "results.parquet"), table)


def test_what_is_kept_does_not_depend_on_the_order_in_which_trials_end(small_shards: Path, tmp_path: Path) -> None:
    left = []
    for order in ([0, 1, 2], [2, 0, 1]):
        config = config_of(small_shards, tmp_path / str(order[0]), fractions=[1.0])
        planned = list(sweep.trials(config).values())
        for number in order:
            finetune(planned[number].config, PlainContext())
            discard_beaten(planned, Ledger())
        left.append(kept(planned))
        assert all((Path(t.config.run_dir) / "best" / "evaluation.json").exists() for t in planned)
    assert left[0] == left[1]
    assert len(left[0]) == 1


def test_each_trial_that_ended_is_looked_at_once(
    small_shards: Path, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, ledger = list(sweep.trials(config_of(small_shards, tmp_path)).values()), Ledger()
    looks, deletions, read, unlink = [], [], bundles.read_bundle_spec, Path.unlink

    def watched_read(folder: Path) -> bundles.BundleSpec:
        looks.append(folder.parent.name)
        return read(folder)

    def watched_unlink(path: Path, missing_ok: bool = False) -> None:
        deletions.append(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(bundles, "read_bundle_spec", watched_read)
    monkeypatch.setattr(Path, "unlink", watched_unlink)
    for number, trial in enumerate(planned):  # the last of each fraction is the best
        end(trial, bundle, 0.5 + number / 100)
        discard_beaten(planned, ledger)
    assert looks == [trial.name for trial in planned]
    assert len(deletions) == len(set(deletions)) == 2 * (len(planned) - 2)  # the spec and the weights
    monkeypatch.undo()
    assert len(kept(planned)) == 2


def test_in_folds_the_lowest_fold_is_kept_in_whatever_order_trials_end(
    small_shards: Path, tmp_path: Path, bundle: Path
) -> None:
    config = config_of(small_shards, tmp_path, tasks=[FOLDS], fractions=[1.0], seeds=[0, 1, 2, 3])
    planned = sweep.trials(config)
    first, second, third, again = planned  # the last one tests fold 0 too
    scores = {first: 0.5, second: 0.9, third: 0.8, again: 0.6}
    for order in permutations(planned):
        assert left_after(planned, order, scores, bundle) == {again}  # the better one of fold 0
    for order in permutations([second, third]):
        assert left_after(planned, order, scores, bundle) == {second}  # fold 0 failed
    for order in ((first, again), (again, first)):
        assert left_after(planned, order, {first: 0.5, again: 0.5}, bundle) == {first}  # the first name of equals


def test_best_is_of_the_fold_that_most_starts_are_shown_on(
    small_shards: Path, tmp_path: Path, bundle: Path
) -> None:
    inits = dict.fromkeys(("one", "two", "three"), "scratch")
    config = config_of(small_shards, tmp_path, tasks=[FOLDS], fractions=[0.5, 1.0], inits=inits)
    planned, ledger = sweep.trials(config), Ledger()
    for name, trial in planned.items():
        if not name.startswith("view-one") or trial.config.seed:  # all that "one" has of fold 0 failed
            end(trial, bundle, {"view-one-1-1": 0.99, "view-two-0.5-0": 0.7, "view-three-1-2": 0.98}.get(name, 0.6))
    discard_beaten([*planned.values()], ledger)
    assert kept([*planned.values()]) == {
        f"view-{init}-{share}-{seed}" for init, seed in (("one", 1), ("two", 0), ("three", 0)) for share in (0.5, 1)
    }

    def best() -> str:
        keep_best(tmp_path, [*planned.values()], ledger)
        return json.loads((tmp_path / "best" / "view" / "evaluation.json").read_text())["of"]

    assert best() == "view-two-0.5-0"
    for name in ("view-two-0.5-0", "view-two-1-0", "view-three-0.5-0"):  # now most are of fold 1
        discard_bundle(Path(planned[name].config.run_dir) / "best")
    assert best() == "view-one-1-1"


def test_what_an_older_sweep_kept_stays(small_shards: Path, tmp_path: Path, bundle: Path) -> None:
    config = config_of(small_shards, tmp_path, tasks=[FOLDS], fractions=[1.0])
    planned, ledger = sweep.trials(config), Ledger()
    for name, trial in planned.items():
        end(trial, bundle, 0.9 if name.endswith("2") else 0.5)
        if not name.endswith("2"):  # the best score over all folds was kept
            discard_bundle(Path(trial.config.run_dir) / "best")
    discard_beaten([*planned.values()], ledger)
    keep_best(tmp_path, [*planned.values()], ledger)
    assert kept([*planned.values()]) == {"view-scratch-1-2"}
    assert is_bundle(tmp_path / "best" / "view")


def test_the_best_values_of_a_search_do_not_depend_on_whose_bundle_is_there(
    small_shards: Path, tmp_path: Path, bundle: Path
) -> None:
    search = {"space": {"optim.lr": {"choice": [1e-3, 1e-2]}}, "samples": 8}
    config = config_of(small_shards, tmp_path, tasks=[FOLDS], fractions=[1.0], seeds=[1], search=search)
    planned = [*sweep.trials(config).values()]
    assert [trial.config.task.fold for trial in planned] == [1, 1]
    for trial, score in zip(planned, (0.6, 0.7), strict=True):
        end(trial, bundle, score)
    discard_beaten(planned, ledger := Ledger())
    assert kept(planned) == {planned[1].name}
    discard_bundle(Path(planned[1].config.run_dir) / "best")
    found = best_trials(planned, ledger, lambda trial: (trial.config.task.name, trial.init))
    assert found == {("view", "scratch"): planned[1]}


def test_a_trial_that_the_scheduler_stopped_leaves_no_weights(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path, seeds=[0], fractions=[1.0])
    (trial,) = sweep.trials(config).values()
    finetune(trial.config, PlainContext())
    run_dir, ledger = Path(trial.config.run_dir), Ledger()
    (run_dir / "result.json").unlink()
    (run_dir / "state").mkdir()
    discard_beaten([trial], ledger)
    assert kept([trial])  # it is neither done nor stopped: it goes on
    assert (run_dir / "state").exists()
    ledger.stop(trial, 0.5)
    discard_beaten([trial], ledger)
    assert not kept([trial])
    assert not (run_dir / "state").exists()
