"""Deterministic algorithms are asked for while a step is computed; that they do it on a GPU: `test_cuda`."""

import os
from collections.abc import Iterator

import pytest
import torch
from threads import torch_threads

from ray_jobs.cluster import RAY_ENVIRONMENT
from usfm.errors import ConfigError
from usfm.train.determined import CUBLAS, determined

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS[0], "")
    monkeypatch.delenv(CUBLAS[0])


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def state() -> tuple[int, bool]:
    return torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory


def test_every_process_that_ray_starts_has_the_variable() -> None:
    assert RAY_ENVIRONMENT[CUBLAS[0]] == CUBLAS[1]


@pytest.mark.parametrize("device", [CPU, GPU])
def test_they_are_on_inside_and_as_before_outside(device: torch.device) -> None:
    before = state()
    with determined(True, device):
        assert state() == (2, False)
        assert os.environ.get(CUBLAS[0]) == (CUBLAS[1] if device is GPU else None)
    assert state() == before


def test_nothing_changes_where_it_is_off() -> None:
    before = state()
    with determined(False, GPU):
        assert state() == before
    assert CUBLAS[0] not in os.environ


@pytest.mark.usefixtures("two_threads")
def test_threads_of_a_cpu_add_up_the_bias_in_one_order() -> None:
    """The lookup of a relative position bias at 224 px, as in timm's Beit; without `determined` it differs."""
    table = torch.zeros(732, 6, requires_grad=True)
    places = torch.randint(0, 732, (197 * 197,), generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(197 * 197, 6, generator=torch.Generator().manual_seed(1))

    def gradient() -> torch.Tensor:
        with determined(True, CPU):
            (found,) = torch.autograd.grad(table[places], table, upstream)
        return found

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(20))


def test_an_operation_that_has_none_is_said_with_the_way_out() -> None:
    before = state()
    with pytest.raises(ConfigError, match=r"histc.*speed\.deterministic=false"), determined(True, GPU):
        raise RuntimeError("_histc_cuda does not have a deterministic implementation")
    with pytest.raises(ConfigError, match=r"CUBLAS_WORKSPACE_CONFIG=:4096:8"), determined(True, GPU):
        raise RuntimeError("set an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8")
    with pytest.raises(RuntimeError, match="out of memory"), determined(True, GPU):
        raise RuntimeError("out of memory")
    assert state() == before
