"""The loader benchmark runs end to end, and finds out who cheats."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from shard_factory import write_small_shards

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_modules() -> dict[str, ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import loader
        import material
        import measuring
    return {"loader": loader, "material": material, "measuring": measuring}


@pytest.fixture(scope="module")
def material(benchmark_modules: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("material")
    return benchmark_modules["material"].make_material(root, 0, 0, write_small_shards(root / "shards"))


def delivered(benchmark_modules, material, order, spoil=lambda images: images):
    """What `measure` sees of images decoded one by one in some order, over and over."""
    from usfm.data.codec import decode_grey

    canvases = np.zeros((material.images, material.canvas_px, material.canvas_px), np.uint8)
    for canvas, data in zip(canvases, material.encoded(), strict=True):
        pixels = decode_grey(data)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels

    def stream():
        while True:
            for first in range(0, len(order), 8):
                yield torch.from_numpy(spoil(canvases[order[first : first + 8]]))

    measuring = benchmark_modules["measuring"]
    return measuring.measure(stream, material.canvas_px, measuring.Window(1e-6, 0.0))


def test_an_honest_stream_passes_in_any_order(benchmark_modules, material) -> None:
    check = benchmark_modules["measuring"].check
    for order in (np.arange(material.images), np.random.default_rng(0).permutation(material.images)):
        got = delivered(benchmark_modules, material, order)
        check(got, material)
        rounds = -(-len(got.grids) // len(order))
        ids = [material.ids[n] for n in np.tile(order, rounds)[: len(got.grids)]]
        check(got, material, ids)
        with pytest.raises(ValueError, match="2 of .* are not those planned"):
            check(got, material, [ids[1], ids[0], *ids[2:]])


def test_cheats_are_found(benchmark_modules, material) -> None:
    check, order = benchmark_modules["measuring"].check, np.arange(material.images)
    with pytest.raises(ValueError, match="was delivered far more often"):
        check(delivered(benchmark_modules, material, order[:8]), material)
    with pytest.raises(ValueError, match="none of the data set's"):
        check(delivered(benchmark_modules, material, order, np.zeros_like), material)

    def one_pixel(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[:, 0, 0] ^= 1
        return images

    with pytest.raises(ValueError, match=r"pixels of \d+ of \d+ images differ"):
        check(delivered(benchmark_modules, material, order, one_pixel), material)
    with pytest.raises(ValueError, match="not uint8"):
        delivered(benchmark_modules, material, order, lambda images: images.astype(np.float32))


def test_the_window_counts_neither_warm_up_nor_tail(benchmark_modules, material) -> None:
    measuring = benchmark_modules["measuring"]
    batch = torch.zeros((4, material.canvas_px, material.canvas_px), dtype=torch.uint8)
    got = measuring.measure(lambda: iter([batch] * 200), material.canvas_px, measuring.Window(3600, 0.0, 40))
    assert got.images == 40
    assert len(got.tail_crc) == 256
    assert len(got.grids) == 40 + 4 + 256  # the batch that closes the window belongs to neither
    with pytest.raises(ValueError, match="ended before"):
        measuring.measure(lambda: iter([batch] * 3), material.canvas_px, measuring.Window(3600, 0.0))


def test_ratios_are_taken_within_a_round(benchmark_modules) -> None:
    def runs(*rates: float) -> list[dict]:
        return [{"images_per_s": rate, "first_batch_s": 1.0} for rate in rates]

    timings = {"limit": runs(100, 50, 10), "limit_balanced": runs(200, 100, 20), "ours": runs(180, 90, 18),
               "ours_sequential": runs(90, 45, 9), "torch": [{"error": "no"}]}  # fmt: skip
    loader = benchmark_modules["loader"]
    report = loader.summary(timings, {}, {"mosaic": "streaming"})
    assert report["ratio_to_limit_by_round"] == pytest.approx([0.9] * 3)
    assert report["balanced_over_sequential"] == pytest.approx(1.0)
    assert report["balanced_over_sequential_raw"] == 2.0
    assert report["failed"] == {"torch": "no"}
    text = loader.table({**report})
    assert "MosaicML streaming, MDS | not installed" in text
    assert "torch DataLoader, memory-mapped shards | failed" in text


@pytest.mark.ray
@pytest.mark.slow
def test_the_whole_benchmark_in_small(tmp_path: Path, small_shards: Path) -> None:
    out = tmp_path / "loader.json"
    only = "limit_balanced,ours,webdataset"  # the others run through the same code, each for some more seconds
    command = [
        *(sys.executable, str(BENCHMARKS / "loader.py"), "--out", str(out), "--shards", str(small_shards)),
        *("--only", only, "--repetitions", "1", "--seconds", "0.3", "--warm", "0", "--batch", "8"),
        *("--cores", "2", "--memory-rows", "300", "--memory-images", "400", "--folder", str(tmp_path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["settings"]["images"] == 24 + 40 + 3
    assert {*report["images_per_s"], *report["not_installed"]} == set(only.split(","))
    assert report["ratio_to_limit"] > 0
    assert report["balanced_over_sequential"] is None
    assert 0 < report["first_batch_s"] < 60
    assert report["peak_rss_mb"]["300"] > 50
    assert report["images_per_s"]["ours"] > 0
