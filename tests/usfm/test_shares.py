import pytest
from hypothesis import given
from hypothesis import strategies as st

from usfm.data.shares import SamplingConfig, organ_shares, stratum_shares
from usfm.errors import ConfigError

ROWS = {"breast": 900, "heart": 90, "kidney": 10}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_shares_follow_the_formula(alpha: float) -> None:
    weights = {"a": 900**alpha, "b": 9**alpha}
    expected = {k: v / sum(weights.values()) for k, v in weights.items()}
    assert organ_shares({"a": 900, "b": 9}, SamplingConfig(alpha=alpha)) == pytest.approx(expected)


def test_fixed_weights_leave_the_rest_to_alpha() -> None:
    shares = organ_shares(ROWS, SamplingConfig(alpha=1.0, weights={"kidney": 0.5}))
    assert shares == pytest.approx({"breast": 0.5 * 900 / 990, "heart": 0.5 * 90 / 990, "kidney": 0.5})


def test_what_a_bound_cuts_off_goes_to_the_others() -> None:
    shares = organ_shares(ROWS, SamplingConfig(max_share={"kidney": 0.1}))
    assert shares == pytest.approx({"breast": 0.45, "heart": 0.45, "kidney": 0.1})
    # 1 % of the rows, at most 5 times as often: 5 %; 9 % of the rows: 45 %
    shares = organ_shares(ROWS, SamplingConfig(max_oversampling=5))
    assert shares == pytest.approx({"breast": 0.5, "heart": 0.45, "kidney": 0.05})


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**6), min_size=1),
    st.floats(0, 1),
    st.floats(1, 100),
)
def test_bounds_hold_and_shares_sum_to_one(rows, alpha, most) -> None:
    shares = organ_shares(rows, SamplingConfig(alpha=alpha, max_oversampling=most))
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares) == list(rows)
    total = sum(rows.values())
    assert all(shares[o] <= most * n / total * (1 + 1e-9) for o, n in rows.items())


def test_sources_share_their_organ() -> None:
    rows = {("breast", "busi"): 100, ("breast", "busbra"): 300, ("heart", "camus"): 50}
    equal = stratum_shares(rows, SamplingConfig(within="source"))
    assert equal == pytest.approx({("breast", "busbra"): 0.25, ("breast", "busi"): 0.25, ("heart", "camus"): 0.5})
    natural = stratum_shares(rows, SamplingConfig(within="source", within_alpha=1.0))
    assert natural[("breast", "busbra")] == pytest.approx(0.375)
    assert list(natural) == sorted(rows)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": {"hart": 0.5}}, "weights names hart; the split has breast, heart, kidney"),
        ({"max_share": {"hart": 0.5}}, "max_share names hart"),
        ({"weights": {"breast": 0.3, "heart": 0.3, "kidney": 0.3}}, "name every organ but sum to 0.9"),
        ({"weights": {"breast": 0.5, "heart": 0.5}}, "leave nothing for the other organs"),
        ({"weights": {"kidney": 0.5}, "max_oversampling": 2.0}, "above max_share or max_oversampling for kidney"),
        ({"max_share": {"breast": 0.2, "heart": 0.2, "kidney": 0.2}}, r"allow 0\.600 of the stream"),
    ],
)
def test_shares_that_cannot_be_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        organ_shares(ROWS, SamplingConfig.build(values))


@pytest.mark.parametrize(
    "values", [{"weights": {"a": 0.0}}, {"max_share": {"a": 1.5}}, {"weights": {"a": 0.7, "b": 0.7}}]
)
def test_a_share_is_between_zero_and_one(values: dict) -> None:
    with pytest.raises(ConfigError, match="share"):
        SamplingConfig.build(values)


def test_an_organ_without_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match="organs that have rows"):
        organ_shares({"a": 1, "b": 0}, SamplingConfig())
