"""Data that tests share: a real corpus where there is one, a small simulated archive, small shards."""

import os
from pathlib import Path

import pytest
from shard_factory import write_small_shards
from sweep_factory import write_sweep

from ray_jobs.cluster import set_environment, set_token
from usfm.data.simulate import write_archive
from usfm.report.downstream.tables import SweepTables, read_sweep

# before any test module can import ray, which reads its switches once
set_environment()
set_token()
# Ray's workers run at nice 15 otherwise, behind the tests' own processes, and some starts take minutes
os.environ.setdefault("RAY_worker_niceness", "0")

REPOSITORY = Path(__file__).resolve().parents[1]
TINY_COUNTS = {
    "fetal_head": 9,
    "nerve": 6,
    "heart": 8,
    "lung": 8,
    "muscle": 4,
    "breast": 4,
    "liver": 4,
    "carotid": 3,
    "kidney": 3,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests for a GPU are skipped where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of the real corpus; the test is skipped where it is absent."""
    folder = Path(os.environ.get("USFM_CORPUS") or REPOSITORY.parent / "shared" / "corpus")
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real corpus at {folder}; set USFM_CORPUS to a folder with a manifest.csv")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated archive with every medium; read-only. Its manifest is `tiny_archive / "manifest.csv"`."""
    return write_archive(tmp_path_factory.mktemp("tiny_archive"), TINY_COUNTS).parent


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled shards of three organs, 64 px, read-only (see `shard_factory`)."""
    return write_small_shards(tmp_path_factory.mktemp("small_shards"))


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> SweepTables:
    """Those of a made-up sweep: two tasks, three starts, fractions and seeds; read-only (see `sweep_factory`)."""
    folder = tmp_path_factory.mktemp("sweep")
    return read_sweep(write_sweep(folder, fractions=(0.05, 0.2, 1.0), seeds=range(3), items=40))
