import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usfm.data.sampling import PERIOD, SamplePlan, Tape
from usfm.data.shares import SamplingConfig, organ_shares, stratum_shares

SIZES = {"heart": [50, 30, 20], "kidney": [3], "liver": [7, 4]}


def plan_of(seed: int, sizes: dict[str, list[int]], alpha: float, chunk_size: int) -> SamplePlan:
    shares = organ_shares({name: sum(rows) for name, rows in sizes.items()}, SamplingConfig(alpha=alpha))
    return SamplePlan(seed, sizes, shares, chunk_size)


def rows_of(plan: SamplePlan, index: np.ndarray) -> list[tuple[int, int, int]]:
    at = plan.locate(index)
    return list(zip(at.tape.tolist(), at.shard.tolist(), at.row.tolist(), strict=True))


organ_sizes = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=4), min_size=1, max_size=6).map(
    lambda organs: {f"o{k}": rows for k, rows in enumerate(organs)}
)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=8),
    st.floats(0, 1),
    st.integers(1, 200),
    st.integers(0, 10**9),
)
def test_every_chunk_is_within_one_sample_of_its_share(sizes, alpha, chunk_size, chunk) -> None:
    plan = plan_of(0, {f"o{k}": [n] for k, n in enumerate(sizes)}, alpha, chunk_size)
    counts = plan.counts(chunk)
    assert counts.sum() == chunk_size
    expected = chunk_size * np.array(list(plan.shares.values()))
    assert np.abs(counts - expected).max() < 1 + 1e-6
    assert (counts >= 0).all()


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(1, 300),
    st.integers(0, 10**6),
)
def test_with_sources_inside_organs_the_organs_too_keep_their_share(organs, chunk_size, chunk) -> None:
    rows = {(f"o{o}", f"s{s}"): n for o, sources in enumerate(organs) for s, n in enumerate(sources)}
    shares = stratum_shares(rows, SamplingConfig(within="source"))
    plan = SamplePlan(0, {"/".join(k): [n] for k, n in rows.items()}, {"/".join(k): s for k, s in shares.items()},
                      chunk_size)  # fmt: skip
    counts = dict(zip(shares, plan.counts(chunk), strict=True))
    for organ in {key[0] for key in rows}:
        got = sum(count for key, count in counts.items() if key[0] == organ)
        assert abs(got - chunk_size / len(organs)) < 1 + 1e-6


def test_tape_positions_are_the_sum_of_all_counts_before() -> None:
    plan = plan_of(0, SIZES, 0.4, 100)
    running = np.zeros(3, np.int64)
    for chunk in range(2 * PERIOD + 5):
        assert plan.tape_starts(chunk).tolist() == running.tolist()
        running += plan.counts(chunk)
    drawn = plan.tape_starts(PERIOD) / (PERIOD * 100)
    assert drawn == pytest.approx(list(plan.shares.values()), abs=1 / (PERIOD * 100))


@settings(deadline=None, max_examples=30)
@given(organ_sizes, st.floats(0, 1), st.integers(1, 64), st.integers(0, 99))
def test_no_row_of_an_organ_repeats_before_its_pass_is_over(sizes, alpha, chunk_size, seed) -> None:
    plan = plan_of(seed, sizes, alpha, chunk_size)
    at = plan.locate(np.arange(chunk_size * 20))
    for tape, name in enumerate(plan.names):
        here = at.tape == tape
        drawn = np.stack([at.shard[here], at.row[here]], axis=1)
        # inside a chunk the order is mixed, so count: after n draws no row is seen more often than ceil(n / rows)
        for end in range(chunk_size, chunk_size * 20 + 1, chunk_size):
            seen = drawn[: int((at.tape[:end] == tape).sum())]
            if len(seen):
                most = np.unique(seen, axis=0, return_counts=True)[1]
                assert most.max() == -(-len(seen) // sum(sizes[name]))


def test_each_pass_holds_every_row_once_in_another_order() -> None:
    tape = Tape(1, "liver", [7, 4])
    passes = [
        list(zip(*(a.tolist() for a in tape.locate(np.arange(11 * p, 11 * (p + 1)))), strict=True))
        for p in range(5)
    ]
    everything = {(0, r) for r in range(7)} | {(1, r) for r in range(4)}
    assert all(set(order) == everything for order in passes)
    assert len({tuple(order) for order in passes}) == 5
    for order in passes:  # one shard after the other: reading stays sequential
        shards = [shard for shard, _ in order]
        assert sum(a != b for a, b in zip(shards, shards[1:], strict=False)) == 1


@settings(deadline=None, max_examples=30)
@given(organ_sizes, st.floats(0, 1), st.integers(1, 64), st.integers(0, 400), st.integers(1, 100))
def test_resume_from_any_sample_equals_the_tail(sizes, alpha, chunk_size, start, length) -> None:
    whole = rows_of(plan_of(3, sizes, alpha, chunk_size), np.arange(start + length))
    assert rows_of(plan_of(3, sizes, alpha, chunk_size), np.arange(start, start + length)) == whole[start:]


def test_the_stream_is_a_function_of_the_index() -> None:
    plan = plan_of(7, SIZES, 0.0, 48)
    whole = rows_of(plan, np.arange(500))
    assert rows_of(plan_of(7, SIZES, 0.0, 48), np.array([499, 0, 250])) == [whole[499], whole[0], whole[250]]
    assert rows_of(plan_of(8, SIZES, 0.0, 48), np.arange(500)) != whole


def test_epochs_differ_in_order_and_not_in_mix() -> None:
    plan = plan_of(7, SIZES, 0.0, 48)
    epochs = [rows_of(plan, np.arange(e * 480, (e + 1) * 480)) for e in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    mixes = [np.bincount([tape for tape, _, _ in epoch]).tolist() for epoch in epochs]
    assert mixes == [[160, 160, 160]] * 4


def test_alpha_one_draws_every_row_alike_and_alpha_zero_every_organ() -> None:
    natural = plan_of(0, SIZES, 1.0, 114)  # as many as there are rows
    assert sorted(set(rows_of(natural, np.arange(114)))) == sorted(rows_of(natural, np.arange(114)))
    assert plan_of(0, SIZES, 0.0, 114).counts(0).tolist() == [38, 38, 38]


def test_balanced_batches_inside_a_chunk() -> None:
    plan = plan_of(7, SIZES, 0.0, 480)
    tape = plan.locate(np.arange(480)).tape
    for batch in tape.reshape(-1, 48):
        assert np.abs(np.bincount(batch, minlength=3) - 16).max() <= 2


def test_a_billion_rows_cost_what_a_hundred_thousand_do() -> None:
    def cost(shards: int, far: int) -> tuple[float, int]:
        sizes = {"a": [2048] * shards, "b": [5]}
        tracemalloc.start()
        began = time.process_time()
        plan = plan_of(0, sizes, 0.0, 1024)
        at = plan.locate(np.arange(far, far + 4096))
        took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert at.index[-1] == far + 4095
        return took, peak

    small, large = cost(50, 10**5), cost(500_000, 10**15)  # 10^5 and 10^9 rows
    assert large[0] < small[0] + 2.0
    # 10^9 rows are 500,000 shards: their sizes and one order of them, 8 bytes each; nothing of the rows
    assert large[1] < small[1] + 500_000 * 8 * 8
