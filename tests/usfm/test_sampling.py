import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usfm.data.sampling import PERIOD, OrganTape, SamplePlan, organ_shares
from usfm.errors import ConfigError

SIZES = {"heart": [50, 30, 20], "kidney": [3], "liver": [7, 4]}


def rows_of(plan: SamplePlan, index: np.ndarray) -> list[tuple[int, int, int]]:
    at = plan.locate(index)
    return list(zip(at.organ.tolist(), at.shard.tolist(), at.row.tolist(), strict=True))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_shares_follow_the_formula(alpha: float) -> None:
    weights = {"a": 900**alpha, "b": 9**alpha}
    expected = {k: v / sum(weights.values()) for k, v in weights.items()}
    assert organ_shares({"a": 900, "b": 9}, alpha) == pytest.approx(expected)


def test_an_organ_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="organs that have rows"):
        organ_shares({"a": 1, "b": 0}, 0.0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=8),
    st.floats(0, 1),
    st.integers(1, 200),
    st.integers(0, 10**9),
)
def test_every_chunk_is_within_one_sample_of_its_share(sizes, alpha, chunk_size, chunk) -> None:
    plan = SamplePlan(0, {f"o{k}": [n] for k, n in enumerate(sizes)}, alpha, chunk_size)
    counts = plan.counts(chunk)
    assert counts.sum() == chunk_size
    expected = chunk_size * np.array(list(plan.shares.values()))
    assert np.abs(counts - expected).max() < 1 + 1e-6
    assert (counts >= 0).all()


def test_tape_positions_are_the_sum_of_all_counts_before() -> None:
    plan = SamplePlan(0, SIZES, 0.4, 100)
    running = np.zeros(3, np.int64)
    for chunk in range(2 * PERIOD + 5):
        assert plan.tape_starts(chunk).tolist() == running.tolist()
        running += plan.counts(chunk)
    drawn = plan.tape_starts(PERIOD) / (PERIOD * 100)
    assert drawn == pytest.approx(list(plan.shares.values()), abs=1 / (PERIOD * 100))


def test_no_row_repeats_before_its_organs_pass_is_over() -> None:
    tape = OrganTape(1, "liver", [7, 4])
    passes = [
        set(zip(*(a.tolist() for a in tape.locate(np.arange(11 * p, 11 * (p + 1)))), strict=True)) for p in range(5)
    ]
    assert all(seen == {(0, r) for r in range(7)} | {(1, r) for r in range(4)} for seen in passes)
    orders = [tape.locate(np.arange(11 * p, 11 * (p + 1)))[1].tolist() for p in range(5)]
    assert len({tuple(order) for order in orders}) == 5  # each pass is shuffled anew


def test_the_stream_is_a_function_of_the_index() -> None:
    plan = SamplePlan(7, SIZES, 0.0, 48)
    whole = rows_of(plan, np.arange(500))
    again = SamplePlan(7, SIZES, 0.0, 48)
    assert rows_of(again, np.arange(317, 500)) == whole[317:]
    assert rows_of(again, np.array([499, 0, 250])) == [whole[499], whole[0], whole[250]]
    assert rows_of(SamplePlan(8, SIZES, 0.0, 48), np.arange(500)) != whole


def test_balanced_batches_inside_a_chunk() -> None:
    plan = SamplePlan(7, SIZES, 0.0, 480)
    organ = plan.locate(np.arange(480)).organ
    for batch in organ.reshape(-1, 48):
        assert np.abs(np.bincount(batch, minlength=3) - 16).max() <= 2


def test_a_billion_rows_cost_no_more_than_a_few() -> None:
    plan = SamplePlan(0, {"a": [10**8] * 2, "b": [5]}, 0.0, 64)
    far = plan.locate(np.array([10**15, 10**15 + 1]))
    assert far.index.tolist() == [10**15, 10**15 + 1]
    assert plan.tape_starts(10**13).sum() == 64 * 10**13
