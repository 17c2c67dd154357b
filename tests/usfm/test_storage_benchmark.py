"""The storage benchmark runs, and what it says of its own images is true."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def test_the_table_of_encodings_and_containers(tmp_path: Path) -> None:
    out = tmp_path / "storage.json"
    command = [sys.executable, str(BENCHMARKS / "storage.py"), "--out", str(out), "--images", "18", "--simulated"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text(encoding="utf-8"))
    # organs with few images are rounded up to one
    assert report["raw_bytes_per_image"] == 256 * 256
    encodings = report["encodings"]
    assert encodings["raw"]["bytes_per_image"] == 256 * 256 + 4
    assert encodings["JPEG q95"]["largest_error"] > 0
    assert all(r["largest_error"] == 0 for name, r in encodings.items() if name != "JPEG q95")
    png = encodings["PNG as ingest writes it"]["bytes_per_image"]
    present = {name.split(":")[0]: r for name, r in report["containers"].items()}
    assert {*present, *report["not_installed"]} == {
        "Arrow IPC", "Parquet, 16 rows a group", "Parquet, 512 rows a group", "Lance", "tar", "MDS", "files"
    }  # fmt: skip
    for name, r in present.items():
        rows = r["s3_rows"]["in_order"]
        assert rows == report["images"]
        assert r["bytes_per_image"] - r["container_bytes_per_image"] == png, name
        assert sum(r["s3_in_order_requests"].values()) >= 1, name
        assert r["s3_in_order_bytes"] >= png * rows, name
        assert name in done.stdout
    # one object each, and a question for its size
    assert present["files"]["s3_random_requests"]["GET"] == report["images"]
