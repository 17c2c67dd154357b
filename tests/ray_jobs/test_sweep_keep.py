"""Which trials' bundles a sweep keeps."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from shard_factory import VIEW

from ray_jobs import sweep
from ray_jobs.console import Console
from ray_jobs.sweep_config import Trial
from ray_jobs.sweep_table import discard_beaten
from ray_jobs.sweep_tune import Ledger
from usfm.models.bundle import is_bundle, load_bundle
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
