"""The step benchmark end to end, at a size that takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "step.py"
sys.path.insert(0, str(SCRIPT.parent))

import step  # noqa: E402

from usfm.models.encoder import Encoder  # noqa: E402


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


@pytest.mark.parametrize(("asked", "on"), [([], True), (["--no-deterministic"], False)])
def test_all_contenders_are_deterministic_or_none(
    asked: list[str], on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step, the bare encoder, SimMIM and the marked step: a ratio of two settings would say nothing."""
    seen, forward = [], Encoder.forward

    def watched(self: Encoder, *args: object, **kwargs: object) -> object:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Encoder, "forward", watched)
    out = tmp_path / "step.json"
    small = [
        "--device",
        "cpu",
        "--size",
        "nano",
        "--img-px",
        "64",
        "--batch",
        "4",
        "--rounds",
        "1",
        "--seconds",
        "0",
    ]
    assert step.main(["--out", str(out), "--images", "4", *small, *asked]) == 0
    assert len(seen) > 12
    assert set(seen) == {on}
    assert not torch.are_deterministic_algorithms_enabled()
    assert json.loads(out.read_text())["settings"]["deterministic"] is on
    assert f"deterministic {on}, wall clock" in capsys.readouterr().out.splitlines()[0]
