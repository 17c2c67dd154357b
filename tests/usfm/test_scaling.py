"""Scale on paper: the document holds the script's output, and the script's arithmetic is right."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))

import scaling  # noqa: E402

ROUND = {
    "images": 1e6, "epochs": 10, "parameters": 1e9, "flop_per_image": 1e12, "stored_image_bytes": 1e4,
    "decode_per_core": 1000, "matmul_flop_per_s": 1e15, "mfu": 0.5, "memory_bytes_per_s": 2.8e12,
    "nvlink_bytes_per_s": 1e11, "network_bytes_per_s": 1e10, "overlap": 0.75, "checkpoint_write_bytes_per_s": 1e9,
    "checkpoint_every": 100, "gpu_hour_usd": 3, "largest_batch": 800, "batch_per_gpu": 100,
}  # fmt: skip


def test_the_document_holds_the_output_for_the_constants_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")
    held = text.split("<!-- tables -->")[1].split("<!-- end -->")[0].strip()
    assert scaling.main([]) == 0
    assert capsys.readouterr().out.strip() == held


def test_one_gpu_by_hand() -> None:
    one = scaling.scale(1, ROUND)
    assert one.update_s == pytest.approx(0.01)  # 28 GB at 2.8 TB/s
    assert one.compute_s == pytest.approx(0.19)  # the rest of 0.2 s: 100 images x 1 TFLOP at 500 TFLOP/s
    assert one.ddp_bytes == one.fsdp_bytes == one.exposed_s == 0
    assert one.images_per_s == pytest.approx(500)
    assert one.days == pytest.approx(1e7 / 500 / 86400)
    assert one.usd == pytest.approx(3 * 1e7 / 500 / 3600)
    assert one.checkpoint_share == pytest.approx(12 / 20)  # 12 GB at 1 GB/s, every 100 steps of 0.2 s


def test_the_rate_of_one_gpu_is_the_one_that_was_measured() -> None:
    """0.254 of 771 TFLOP/s over 105.8 GFLOP an image, as step.py timed it with AdamW: 1,850 in docs/RESULTS.md."""
    constants = scaling.load(ROOT / "tests" / "benchmarks" / "scaling_constants.json")
    one = scaling.scale(1, {name: float(entry["value"]) for name, entry in constants.items()})
    assert one.images_per_s == pytest.approx(0.254 * 7.71e14 / 105_785_559_360)
    assert round(one.images_per_s, -1) == 1850


def test_adamw_takes_as_long_for_fewer_images() -> None:
    sixteen = scaling.scale(16, ROUND | {"network_bytes_per_s": 1e15})
    assert sixteen.compute_s == pytest.approx(0.095)  # 50 images of 1.9 ms
    assert sixteen.update_s == pytest.approx(0.01)
    assert sixteen.images_per_s == pytest.approx(800 / 0.105, rel=1e-4)
    with pytest.raises(SystemExit, match="state constants that fit each other"):
        scaling.scale(1, ROUND | {"memory_bytes_per_s": 1e11})


def test_eight_gpus_hide_a_part_of_their_all_reduce() -> None:
    eight = scaling.scale(8, ROUND)
    assert eight.ddp_bytes == pytest.approx(2 * 7 / 8 * 4e9)
    assert eight.fsdp_bytes == pytest.approx(3 * 7 / 8 * 4e9)
    assert eight.exposed_s == 0  # 0.07 s behind 0.75 of 0.127 s
    apart = scaling.scale(8, ROUND | {"nvlink_bytes_per_s": 2e10})
    assert apart.exposed_s == pytest.approx(0.35 - 0.095)
    assert scaling.scale(16, ROUND).global_batch == 800  # the batch does not grow further


def test_a_gpu_run_replaces_what_it_measured_and_a_cpu_run_does_not(tmp_path: Path) -> None:
    report = {
        "device": "A GPU", "packages": {"torch": "2.11"}, "matmul_tflop_per_s": 700, "mfu": 0.3, "parameters": 5,
        "gflop_per_image": {"step": 100},
        "settings": {"batch": 64, "accumulate": 2, "compile": False, "deterministic": True},
    }  # fmt: skip
    step = tmp_path / "step.json"
    step.write_text(json.dumps(report))
    path = ROOT / "tests" / "benchmarks" / "scaling_constants.json"
    changed = scaling.load(path, step, ["gpu_hour_usd=4"])
    source = "step.py on A GPU, torch 2.11, compile False, deterministic True"
    assert changed["mfu"] == {"value": 0.3, "unit": "of the matmul rate", "kind": "measured", "source": source}
    assert changed["matmul_flop_per_s"]["value"] == 7e14
    assert changed["batch_per_gpu"]["value"] == 128  # images of the step that the MFU is of
    assert changed["gpu_hour_usd"]["value"] == 4
    step.write_text(json.dumps(report | {"device": "CPU, 2 threads"}))
    with pytest.raises(SystemExit, match="wants a GPU's"):
        scaling.load(path, step)
    with pytest.raises(SystemExit, match="no constant price"):
        scaling.load(path, None, ["price=4"])


def test_every_constant_says_where_it_is_from() -> None:
    path = ROOT / "tests" / "benchmarks" / "scaling_constants.json"
    for name, entry in json.loads(path.read_text()).items():
        assert entry["kind"] in ("known", "chosen", "counted", "measured", "stated"), name
        assert len(entry["source"]) > 10, name
