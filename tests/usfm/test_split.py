from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usfm.data.split import SplitConfig, split_of
from usfm.errors import ConfigError

GROUPS = [f"source/patient{number}" for number in range(4000)]
EXPECTED = [
    "train",
    "test",
    "test",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
    "train",
]


def test_fractions_of_groups_are_met() -> None:
    counts = Counter(split_of(group, SplitConfig(val=0.1, test=0.2)) for group in GROUPS)
    # five standard deviations of a binomial draw
    for name, fraction in (("val", 0.1), ("test", 0.2)):
        spread = (len(GROUPS) * fraction * (1 - fraction)) ** 0.5
        assert abs(counts[name] - len(GROUPS) * fraction) < 5 * spread


def test_known_answers_stay_the_same_between_versions() -> None:
    answers = [split_of(group, SplitConfig()) for group in GROUPS[:12]]
    assert answers == EXPECTED


@given(st.text(min_size=1), st.floats(0, 0.5), st.floats(0, 0.49), st.integers())
def test_only_the_group_decides_and_test_does_not_depend_on_val(
    group: str, val: float, test: float, seed: int
) -> None:
    one, other = SplitConfig(val=val, test=test, seed=seed), SplitConfig(val=0.0, test=test, seed=seed)
    assert split_of(group, one) == split_of(group, one)
    assert (split_of(group, one) == "test") == (split_of(group, other) == "test")


def test_unknown_group_trains() -> None:
    assert split_of("", SplitConfig(val=0.01, test=0.98)) == "train"


def test_another_seed_is_another_split() -> None:
    one = [split_of(group, SplitConfig(seed=0)) for group in GROUPS]
    other = [split_of(group, SplitConfig(seed=1)) for group in GROUPS]
    assert one != other


@pytest.mark.parametrize("values", [{"val": 0.5, "test": 0.5}, {"val": -0.1}, {"test": 1.0}])
def test_impossible_fractions_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SplitConfig.build(values)
