"""The script that runs a sweep without Ray: the tables of `usfm sweep`, without importing it."""

import json
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

from ray_jobs.sweep_config import SweepConfig  # noqa: E402
from usfm.errors import ConfigError  # noqa: E402

FINETUNE = {"encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 2, "eval_every": 2, "batch_size": 4}
DIVERGING = {"lr": 1e30, "clip_norm": 0}


def test_a_random_search_runs_in_processes_and_is_not_run_again(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = tmp_path / "search.yaml", tmp_path / "search"
    recipe.write_text(yaml.safe_dump({
        "run_dir": str(folder), "shards": str(small_shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch", "diverging": {"optim": DIVERGING}}, "fractions": [1.0], "seeds": [0],
        "search": {"space": {"layer_decay": {"uniform": [0.5, 1.0]}}, "samples": 2}, "finetune": FINETUNE,
    }))  # fmt: skip
    command = [str(SCRIPT), "--config", str(recipe), "--processes", "1"]
    program = f"import sys, runpy; sys.modules['ray'] = None; sys.argv = {command!r}; "
    program += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(folder / "results.csv")
    assert list(table.status[table.init == "scratch"]) == ["ok", "ok"]
    assert all("fine-tuning step" in reason for reason in table.status[table.init == "diverging"])
    best = yaml.safe_load((folder / "best.yaml").read_text())
    rows = table[table.init == "scratch"]
    assert list(best["view"]) == ["scratch"]
    assert best["view"]["scratch"]["layer_decay"] in set(
        rows[rows.val_value == rows.val_value.max()]["search_layer_decay"]
    )
    # as `usfm sweep` it refuses a search of other trials in its folder, which would replace the best values
    assert sweep_in_processes.main(["--config", str(recipe), "fractions=[0.5]"]) == 1
    assert "already holds a run with other values of fractions" in capsys.readouterr().out
    assert yaml.safe_load((folder / "best.yaml").read_text()) == best


def test_a_trial_that_fails_for_any_reason_is_a_row_and_changed_settings_are_refused(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
        assert sweep_in_processes.main(["--config", str(recipe), "--processes", "1"]) == 1
        assert said in " ".join(capsys.readouterr().out.split())


def test_what_the_sweep_would_say_or_refuse_is_said_and_refused(
    small_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, recipe = tmp_path / "search", tmp_path / "search.yaml"
    search = {"space": {"layer_decay": {"uniform": [0.5, 1.0]}}, "samples": 1}
    view = {**VIEW, "canvas_px": 64, "kind": "multilabel", "classes": {"two": ["a"]}, "unlisted": "leave_out"}
    asked = {
        "run_dir": str(folder), "shards": str(small_shards), "tasks": [view], "inits": {"scratch": "scratch"},
        "fractions": [1.0], "seeds": [0], "finetune": FINETUNE | {"optim": DIVERGING}, "search": search,
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(asked | {"search": search | {"scheduler": "asha"}}))
    with pytest.raises(SystemExit):
        sweep_in_processes.main(["--config", str(recipe)])
    assert "asha" in capsys.readouterr().err
    recipe.write_text(yaml.safe_dump(asked))
    assert sweep_in_processes.main(["--config", str(recipe), "--processes", "1"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "task view leaves out: " in said
    assert "came to its end; the first says: " in said
    assert json.loads((folder / "plan.json").read_text())["left_out"]["view"]["train"]
    assert not (folder / "best.yaml").exists()


def test_an_empty_file_of_best_values_is_refused(small_shards: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    for text in ("{}\n", ""):
        best.write_text(text)
        with pytest.raises(ConfigError, match="best.yaml holds no values"):
            SweepConfig.build({"shards": str(small_shards), "tasks": [VIEW], "inits": {"scratch": "scratch"},
                               "tuned": str(best)})  # fmt: skip


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
