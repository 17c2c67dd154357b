import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from usfm.draws import mix64, uniform
from usfm.rng import stream_key

WORD = 1 << 64


def mix64_by_hand(x: int) -> int:
    """SplitMix64's finaliser in Python's unbounded integers."""
    x %= WORD
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=20))
def test_mix64_equals_integer_arithmetic(values: list[int]) -> None:
    mixed = mix64(torch.tensor(values, dtype=torch.int64))
    assert [int(v) % WORD for v in mixed] == [mix64_by_hand(v) for v in values]


def test_draws_depend_on_the_index_alone() -> None:
    key = stream_key(3, "test")
    together = uniform(key, torch.arange(100), 5)
    alone = torch.cat([uniform(key, torch.tensor([i]), 5) for i in range(100)])
    assert torch.equal(together, alone)
    assert torch.equal(together[:, :3], uniform(key, torch.arange(100), 3))
    assert not torch.equal(together, uniform(stream_key(4, "test"), torch.arange(100), 5))
    assert not torch.equal(together, uniform(stream_key(3, "other"), torch.arange(100), 5))


def test_draws_are_uniform() -> None:
    draws = uniform(stream_key(0, "uniform"), torch.arange(4000), 25).double().numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=50, range=(0, 1))[0]
    expected = draws.size / 50
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 86  # 99.9 % quantile with 49 degrees of freedom is 85.4
    neighbours = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.015
