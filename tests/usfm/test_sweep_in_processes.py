"""The script that runs a sweep without Ray: the tables of `usfm sweep`, without importing it."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from shard_factory import VIEW

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "sweep_in_processes.py"


def test_a_random_search_runs_in_processes_and_is_not_run_again(small_shards: Path, tmp_path: Path) -> None:
    recipe, folder = tmp_path / "search.yaml", tmp_path / "search"
    recipe.write_text(yaml.safe_dump({
        "run_dir": str(folder), "shards": str(small_shards), "tasks": [{**VIEW, "canvas_px": 64}],
        "inits": {"scratch": "scratch", "wrong": str(tmp_path / "nothing")}, "fractions": [1.0], "seeds": [0],
        "search": {"space": {"optim.lr": {"loguniform": [1e-3, 1e-2]}}, "samples": 2},
        "finetune": {"encoder": {"size": "nano", "img_px": 32, "patch_px": 8}, "steps": 2, "eval_every": 2,
                     "batch_size": 4},
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
