import itertools
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from usfm.errors import DataError
from usfm.metrics.compare import compare, fraction_to_match


def rows(values, groups) -> list[dict]:
    return [{"id": f"i{n}", "group": g, "value": v} for n, (v, g) in enumerate(zip(values, groups, strict=True))]


def test_a_difference_its_interval_and_two_tests() -> None:
    rng = np.random.default_rng(0)
    groups = [f"p{n // 2}" for n in range(16)]
    base = rng.uniform(0.5, 0.9, 16)
    first = [rows(base + 0.05 + 0.01 * rng.normal(size=16), groups) for _ in range(3)]
    second = [rows(base + 0.01 * rng.normal(size=16), groups) for _ in range(3)]
    got = compare(first, second, "dice")
    assert got.better
    assert got.difference.value == pytest.approx(
        np.mean(
            [
                [a["value"] - b["value"] for a, b in zip(*pair, strict=True)]
                for pair in zip(first, second, strict=True)
            ]
        )
    )
    assert (got.seeds, got.groups, got.items) == (3, 8, 16)
    # 8 patients who all gain: of 256 exchanges none and all move the mean as far
    assert got.p_permutation == pytest.approx(2 / 256)
    assert got.p_wilcoxon == pytest.approx(2 / 256)
    back = compare(second, first, "dice")
    assert back.difference.value == pytest.approx(-got.difference.value)
    assert not back.better
    assert compare(second, first, "mae").better, "of errors less is better"


def test_exchanges_are_every_way_of_swapping_patients() -> None:
    values, groups = [0.9, 0.4, 0.7, 0.8, 0.3], ["p", "p", "q", "r", "s"]
    other = [0.6, 0.5, 0.6, 0.9, 0.1]
    difference = np.array(values) - np.array(other)
    moved = []
    for signs in itertools.product([1, -1], repeat=4):
        sign = dict(zip("pqrs", signs, strict=True))
        moved.append(abs(np.mean([d * sign[g] for d, g in zip(difference, groups, strict=True)])))
    expected = np.mean(np.array(moved) >= abs(difference.mean()) - 1e-12)
    got = compare([rows(values, groups)], [rows(other, groups)], "dice")
    assert got.p_permutation == pytest.approx(expected)
    per_patient = [difference[:2].mean(), *difference[2:]]
    assert got.p_wilcoxon == pytest.approx(wilcoxon(per_patient).pvalue)


def test_classes_are_exchanged_with_their_answers() -> None:
    """Balanced accuracy is no mean of items: the rare class counts as much as the common one."""
    names, truth = ["a", "b"], [0] * 8 + [1] * 2

    def answers(wrong: set[int]) -> list[dict]:
        return [{"id": n, "group": n, "value": float(n not in wrong), "truth": names[k],
                 "predicted": names[k if n not in wrong else 1 - k]} for n, k in enumerate(truth)]  # fmt: skip

    got = compare([answers({0})], [answers({8})], "balanced_accuracy", names)
    assert got.difference.value == pytest.approx((7 / 8 + 1) / 2 - (1 + 1 / 2) / 2)
    assert got.p_wilcoxon == 1, "one patient gained, one lost"
    # exchange neither or both of the two that differ moves it by 3/16, one of them by 5/16
    assert got.p_permutation == 1


def test_equal_ways_and_odd_pairs() -> None:
    same = rows([0.5, 0.6, 0.7], "pqr")
    got = compare([same, same], [same, list(reversed(same))], "dice")
    assert (got.difference.value, got.p_permutation, got.p_wilcoxon) == (0, 1, 1)
    with pytest.raises(DataError, match="1 runs against 2"):
        compare([same], [same, same], "dice")
    with pytest.raises(DataError, match="different items, e.g. \\['i2'\\]"):
        compare([same], [same[:2]], "dice")


def test_many_patients_are_exchanged_by_chance() -> None:
    rng = np.random.default_rng(1)
    groups, base = [f"p{n}" for n in range(40)], rng.normal(size=40)
    first, second = [rows(base, groups)], [rows(base + rng.normal(size=40), groups)]
    got = compare(first, second, "mae")
    assert 0.02 < got.p_permutation < 1
    assert got == compare(first, second, "mae")
    assert got.p_permutation == pytest.approx(got.p_wilcoxon, abs=0.25)


def test_the_fraction_at_which_a_curve_reaches_a_score() -> None:
    curve = {0.1: 0.5, 0.2: 0.7, 1.0: 0.9}
    assert fraction_to_match(curve, 0.6) == pytest.approx(math.sqrt(0.1 * 0.2))
    assert fraction_to_match(curve, 0.7) == pytest.approx(0.2)
    assert fraction_to_match(curve, 0.4) == 0.1
    assert fraction_to_match(curve, 0.95) is None
    assert fraction_to_match({1.0: 0.9, 0.1: 0.5, 0.2: 0.7}, 0.8) == pytest.approx(math.sqrt(0.2))
    errors = {0.1: 9.0, 1.0: 3.0}
    assert fraction_to_match(errors, 6.0, higher_is_better=False) == pytest.approx(math.sqrt(0.1))
    # a dip after the crossing does not undo it
    assert fraction_to_match({0.1: 0.5, 0.2: 0.7, 0.5: 0.55, 1.0: 0.9}, 0.6) == pytest.approx(math.sqrt(0.02))
    assert fraction_to_match({}, 0.5) is None
