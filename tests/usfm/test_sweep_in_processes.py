"""The script that runs a sweep without Ray: the tables of `usfm sweep`, without importing it."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import yaml
from shard_factory import VIEW

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "sweep_in_processes.py"
sys.path.insert(0, str(SCRIPT.parent))

import sweep_in_processes  # noqa: E402

from usfm.errors import ConfigError  # noqa: E402

FINETUNE = {"encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 2, "eval_every": 2, "batch_size": 4}


def test_a_random_search_runs_in_processes_and_is_not_run_again(small_shards: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "search.yaml", tmp_path / "search"
    recipe.write_text(yaml.safe_dump({
        "run_dir": str(folder), "shards": str(small_shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch", "wrong": str(tmp_path / "nothing")}, "fractions": [1.0], "seeds": [0],
        "search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-2]}}, "samples": 2},
        "finetune": FINETUNE,
    }))  # fmt: skip
    command = [str(SCRIPT), "--config", str(recipe), "--processes", "1"]
    program = f"import sys, runpy; sys.modules['ray'] = None; sys.argv = {command!r}; "
    program += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(folder / "results.csv")
    assert list(table.status[table.init == "scratch"]) == ["ok", "ok"]
    assert all("nothing" in reason for reason in table.status[table.init == "wrong"])
    best = yaml.safe_load((folder / "best.yaml").read_text())
    rows = table[table.init == "scratch"]
    assert best["view"]["scratch"]["optim"]["lr"] == rows.loc[rows.val_value.idxmax()]["search_optim.lr"]


def test_a_trial_that_fails_for_any_reason_is_a_row_and_changed_settings_are_refused(
    small_shards: Path, tmp_path: Path
) -> None:
    folder, recipe = tmp_path / "sweep", tmp_path / "sweep.yaml"
    asked = {
        "run_dir": str(folder), "shards": str(small_shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch"}, "fractions": [1.0], "seeds": [0, 1], "finetune": FINETUNE,
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(asked))
    (folder / "trials" / "view-scratch-1-0" / "metrics.jsonl").mkdir(parents=True)  # none of our errors
    assert sweep_in_processes.main(["--config", str(recipe), "--processes", "1"]) == 0
    table = pd.read_csv(folder / "results.csv")
    assert table.status[0].startswith("IsADirectoryError: ")
    assert table.status[1] == "ok"
    assert not (folder / "report.html").exists()

    for change, said in (
        ({"inits": {"scratch": {"init": "scratch", "balance": "class_weights"}}}, "other values of balance"),
        ({"seeds": [1, 2]}, "has trials of seeds 0"),
    ):
        recipe.write_text(yaml.safe_dump(asked | change))
        with pytest.raises(ConfigError, match=said):
            sweep_in_processes.main(["--config", str(recipe), "--processes", "1"])


def test_the_exit_status_is_1_where_no_trial_has_a_result(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "sweep.yaml"
    recipe.write_text(yaml.safe_dump({
        "run_dir": str(tmp_path / "sweep"), "shards": str(small_shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch"}, "fractions": [1.0], "seeds": [0, 1], "finetune": FINETUNE,
    }))  # fmt: skip
    monkeypatch.setattr(sweep_in_processes, "ProcessPoolExecutor", lambda count, **_: ThreadPoolExecutor(count))
    assert sweep_in_processes.main(["--config", str(recipe), "--seconds=-1"]) == 1
    assert list(pd.read_csv(tmp_path / "sweep" / "results.csv").status) == ["not started in time"] * 2


def test_a_killed_process_is_the_reason_of_all_that_waited() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(os._exit, 1), pool.submit(str, "never"), pool.submit(str, "never")]
    assert {sweep_in_processes.reason_of(job)[:21] for job in jobs} == {"a process was killed,"}
