"""The step benchmark end to end, at a size that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "step.py"


def test_it_reports_ratios_shares_and_the_roofline_without_ray(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    # CPU seconds: beside other work the wall clock says nothing
    sizes = ["--size", "nano", "--img-px", "64", "--batch", "16", "--accumulate", "2"]
    small = [*sizes, "--rounds", "2", "--seconds", "0", "--clock", "cpu"]
    blocked = f"import sys; sys.modules['ray'] = None; sys.argv = {[str(SCRIPT), '--out', str(out), *small]!r}; "
    program = blocked + f"import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert out.exists(), done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert set(report["shares"]) == {
        "data_wait", "augment", "masks", "fft", "encoder", "decoder", "loss", "optimizer",
    }  # fmt: skip
    assert sum(report["shares"].values()) == pytest.approx(1, abs=0.1)
    assert max(report["shares"], key=report["shares"].get) == "encoder"
    for round_ in report["rounds"]:
        assert 0 < round_["step"] < 1.5 * round_["encoder"]  # the encoder is a part of the step
    assert 0 < report["mfu"] < 1
    assert report["gflop_per_image"]["step"] > report["gflop_per_image"]["encoder"]
    # forward and backward of 0.7 M parameters on 17 tokens: 6 x parameters x tokens, and attention
    assert report["gflop_per_image"]["encoder"] == pytest.approx(6 * 0.67e6 * 17 / 1e9, rel=0.2)
    for key in ("ratio_to_encoder", "ratio_to_simmim", "images_per_s", "peak_memory_gb"):
        assert report[key] > 0
    assert "| whole step |" in done.stdout
