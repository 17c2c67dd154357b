"""One Ray cluster for the tests of this folder: to start and end one takes ten seconds and more."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ray_jobs.cluster import ClusterConfig, connect

FOLDER = Path(__file__).parent
CLUSTER = ClusterConfig(address="local", num_cpus=2, object_store_mb=512)
SHARED = ExitStack()


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """A local Ray cluster of two CPUs, which the modules of this folder share."""
    import ray

    if not ray.is_initialized():
        SHARED.enter_context(connect(CLUSTER))


@pytest.fixture(scope="module")
def own_ray_cluster() -> Iterator[None]:
    """The same for one module alone, whose workers inherit the environment of now."""
    SHARED.close()
    with connect(CLUSTER):
        yield


@pytest.hookimpl(trylast=True)  # after the fixtures of the last module
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the shared cluster with the last test of this folder; other tests do not run beside it."""
    if nextitem is None or FOLDER not in nextitem.path.parents:
        SHARED.close()
