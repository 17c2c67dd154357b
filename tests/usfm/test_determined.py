"""Deterministic algorithms are asked for around a step on a GPU alone; that they do it: `test_cuda`."""

import os

import pytest
import torch

from usfm.errors import ConfigError
from usfm.train.determined import WORKSPACE, determined

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")
    monkeypatch.delenv(WORKSPACE)


def state() -> tuple[bool, bool, bool]:
    memory = torch.utils.deterministic.fill_uninitialized_memory
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory,
    )


def test_they_are_on_inside_and_as_before_outside() -> None:
    before = state()
    with determined(True, GPU):
        assert state() == (True, False, False)
        assert os.environ[WORKSPACE] == ":4096:8"
    assert state() == before


@pytest.mark.parametrize(("on", "device"), [(False, GPU), (True, CPU)])
def test_nothing_changes_where_it_is_off_or_on_a_cpu(on: bool, device: torch.device) -> None:
    before = state()
    with determined(on, device):
        assert state() == before
    assert WORKSPACE not in os.environ


def test_an_operation_that_has_none_is_said_with_the_way_out() -> None:
    before = state()
    with pytest.raises(ConfigError, match=r"histc.*speed\.deterministic=false"), determined(True, GPU):
        raise RuntimeError("_histc_cuda does not have a deterministic implementation")
    with pytest.raises(RuntimeError, match="out of memory"), determined(True, GPU):
        raise RuntimeError("out of memory")
    assert state() == before
