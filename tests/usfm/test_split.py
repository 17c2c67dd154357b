from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from usfm.config import load_config
from usfm.data.row_table import keep_stamp
from usfm.data.split import SPLIT_ORDER, SplitConfig, assign, position, split_of
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


def strata(draw: st.DrawFn, groups: int, overlap: bool) -> list[npt.NDArray[np.int64]]:
    """Some strata; each group is in one, or in any number."""
    count = draw(st.integers(1, 6))
    if overlap:
        members = [
            draw(st.lists(st.integers(0, groups - 1), unique=True, max_size=20).map(sorted)) for _ in range(count)
        ]
    else:
        of = draw(st.lists(st.integers(0, count - 1), min_size=groups, max_size=groups))
        members = [[g for g in range(groups) if of[g] == s] for s in range(count)]
    return [np.array(m, np.int64) for m in members]


@st.composite
def archives(draw: st.DrawFn, overlap: bool = True) -> tuple:
    groups = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 10**6))
    positions = np.array([position(f"s/{g}", seed) for g in range(groups)])
    config = SplitConfig(
        val=draw(st.sampled_from([0.0, 0.1, 0.3])),
        test=draw(st.sampled_from([0.0, 0.2, 0.5])),
        min_groups=draw(st.sampled_from([0, 3, 5])),
    )
    return positions, strata(draw, groups, overlap), config


def free(positions: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    return np.full(len(positions), -1, np.int8)


def by_hash(positions: npt.NDArray[np.float64], config: SplitConfig) -> list[int]:
    bounds = config.bounds
    return [next(k for k in range(3) if p < bounds[k + 1]) for p in positions]


def wanted(config: SplitConfig) -> set[int]:
    return {k for k in range(3) if config.bounds[k + 1] > config.bounds[k]}


@given(archives(overlap=False))
def test_every_large_stratum_is_covered(drawn: tuple) -> None:
    positions, members, config = drawn
    split = assign(positions, members, free(positions), config)
    for groups in members:
        if config.min_groups and len(groups) >= config.min_groups:
            assert wanted(config) <= set(split[groups])


@given(archives())
def test_a_stratum_stays_without_only_where_nobody_can_be_spared(drawn: tuple) -> None:
    positions, members, config = drawn
    split = assign(positions, members, free(positions), config)
    large = [m for m in members if config.min_groups and len(m) >= config.min_groups]
    for groups in large:
        if not wanted(config) <= set(split[groups]):
            for group in groups:  # each is the last of its split in some stratum
                assert any(group in m and (split[m] == split[group]).sum() == 1 for m in large)


@given(archives())
def test_only_groups_of_bare_strata_leave_their_hash(drawn: tuple) -> None:
    positions, members, config = drawn
    natural = np.array(by_hash(positions, config))
    split = assign(positions, members, free(positions), config)
    bare = [
        m
        for m in members
        if config.min_groups and len(m) >= config.min_groups and not wanted(config) <= set(natural[m])
    ]
    touchable = set(np.concatenate([*bare, np.empty(0, np.int64)]).tolist())
    moved = np.flatnonzero(split != natural)
    assert set(moved.tolist()) <= touchable
    assert len(moved) <= 2 * len(bare)


@given(archives(), st.integers(0, 10**6))
def test_adding_groups_moves_only_what_the_floor_borrowed(drawn: tuple, seed: int) -> None:
    """The first groups of a larger archive: who was not borrowed in either stays; without a floor all stay."""
    positions, members, config = drawn
    more = np.concatenate([positions, np.random.default_rng(seed).random(15)])
    grown = [np.concatenate([m, np.arange(len(positions) + i, len(more), 2)]) for i, m in enumerate(members)]
    before = assign(positions, members, free(positions), config)
    after = assign(more, grown, free(more), config)[: len(positions)]
    natural = np.array(by_hash(positions, config))
    changed = before != after
    assert ((before != natural) | (after != natural))[changed].all()
    if not config.min_groups:
        assert not changed.any()


@given(archives(), st.data())
def test_fixed_groups_never_move(drawn: tuple, data: st.DataObject) -> None:
    positions, members, config = drawn
    fixed = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(positions), max_size=len(positions))))
    split = assign(positions, members, fixed.astype(np.int8), config)
    assert (split[fixed >= 0] == fixed[fixed >= 0]).all()


def test_the_nearest_group_is_borrowed() -> None:
    config = SplitConfig(test=0.2, val=0.1)
    positions = np.array([0.9, 0.5, 0.31, 0.7, 0.95])
    (members,) = [np.arange(5)]
    split = assign(positions, [members], free(positions), config)
    assert [SPLIT_ORDER[k] for k in split] == ["train", "val", "test", "train", "train"]
    assert list(assign(positions, [members[:4]], free(positions), config)) == [2] * 5  # below min_groups


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_assign_without_floor_is_split_of(seed: int) -> None:
    config = SplitConfig(seed=seed, min_groups=0)
    positions = np.array([position(group, seed) for group in GROUPS[:200]])
    split = assign(positions, [np.arange(200)], free(positions), config)
    assert [SPLIT_ORDER[k] for k in split] == [split_of(group, config) for group in GROUPS[:200]]


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 0.9), st.floats(0, 0.9))
def test_ends_of_the_intervals(where: float, val: float, test: float) -> None:
    assume(val + test < 1)
    config = SplitConfig(val=val, test=test, min_groups=0)
    (split,) = assign(np.array([where]), [], np.array([-1], np.int8), config)
    expected = "test" if where < test else "val" if where < test + val else "train"
    assert SPLIT_ORDER[split] == expected


def test_a_table_of_earlier_splits_that_is_none_says_so(tmp_path: Path) -> None:
    assert keep_stamp("") == ""
    with pytest.raises(ConfigError, match="split.keep: no .*splits.csv; give the folder of earlier shards"):
        keep_stamp(str(tmp_path))
    (tmp_path / "splits.csv").write_text("group,split\na,exam\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a table of splits"):
        keep_stamp(str(tmp_path))
    (tmp_path / "splits.csv").write_text("group,split,organs,rows\na,test,heart,3\n", encoding="utf-8")
    assert keep_stamp(str(tmp_path)) == keep_stamp(str(tmp_path / "splits.csv")) != ""


def test_a_floor_needs_as_many_groups_as_there_are_splits() -> None:
    with pytest.raises(ConfigError, match="min_groups is 2; 3 splits need as many groups, or 0"):
        load_config(SplitConfig, None, ["min_groups=2"])
