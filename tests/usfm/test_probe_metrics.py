"""Probes, intervals and rank against scikit-learn, scipy and cases that are known in closed form."""

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from usfm.data.folds import group_folds
from usfm.metrics.intervals import (
    class_scores,
    class_scores_difference,
    class_scores_over_seeds,
    mean_score,
    mean_score_difference,
    mean_score_over_seeds,
)
from usfm.metrics.probe import (
    THRESHOLDS,
    TOKEN_RIDGE,
    choose_strength,
    choose_threshold,
    fit_token_map,
    knn_predict,
    linear_predict,
    token_shares,
)
from usfm.metrics.rank import mean_cosine, rankme
from usfm.metrics.segmentation import dice, overlap


def clusters(n: int, classes: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    return rng.normal(size=(n, 12)) + apart * np.eye(classes, 12)[labels] + 3.0, labels


def test_knn_agrees_with_scikit_learn() -> None:
    x, y = clusters(150, 3, 2.0)
    asked, _ = clusters(60, 3, 2.0, seed=1)

    def weight(distance: np.ndarray) -> np.ndarray:
        return np.exp((1 - distance) / 0.07)

    oracle = KNeighborsClassifier(20, metric="cosine", weights=weight, algorithm="brute").fit(x, y)
    predicted = knn_predict(x, y, asked, 3, k=20, temperature=0.07)
    assert np.array_equal(predicted, oracle.predict(asked))
    assert len(set(predicted.tolist())) == 3


def test_knn_with_fewer_rows_than_neighbours_asks_all() -> None:
    x, y = np.array([[1.0, 0], [0, 1], [0, 1]]), np.array([0, 1, 1])
    assert knn_predict(x, y, np.array([[1.0, 0.1], [0.1, 1]]), 2, k=20).tolist() == [0, 1]


def test_the_linear_probe_agrees_with_scikit_learn() -> None:
    x, y = clusters(150, 3, 1.0)
    asked, _ = clusters(60, 3, 1.0, seed=1)
    scaler = StandardScaler().fit(x)
    oracle = LogisticRegression(C=0.1, class_weight="balanced", max_iter=5000).fit(scaler.transform(x), y)
    assert np.array_equal(linear_predict(x, y, asked, 0.1), oracle.predict(scaler.transform(asked)))


def test_the_linear_probe_bears_constant_features_and_a_single_class() -> None:
    x = np.array([[0.0, 5], [1, 5], [0, 5], [1, 5]])
    assert linear_predict(x, np.array([0, 1, 0, 1]), x).tolist() == [0, 1, 0, 1]
    assert linear_predict(x, np.array([2, 2, 2, 2]), x).tolist() == [2, 2, 2, 2]


def test_the_strength_that_generalises_is_chosen() -> None:
    rng = np.random.default_rng(0)
    y = np.tile([0, 1], 60)
    x = rng.normal(size=(120, 200)) + 1.0 * y[:, None] * (np.arange(200) < 3)  # 3 of 200 features say anything
    groups = [f"p{n // 2}" for n in range(120)]
    folds = group_folds(y, groups, 3, seed=4)

    def score(strength: float) -> float:
        predicted = np.empty_like(y)
        for k in range(3):
            predicted[folds == k] = linear_predict(x[folds != k], y[folds != k], x[folds == k], strength)
        return balanced_accuracy_score(y, predicted)

    strengths = [100.0, 1e-3]
    assert choose_strength(x, y, groups, strengths, seed=4) == max(strengths, key=score)
    assert choose_strength(x, y, ["one"] * 60 + ["two"] * 60, strengths, seed=4) == 100.0  # too few patients


def test_class_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(3, size=200), rng.integers(4, size=200)
    made = class_scores(predicted, truth, [f"p{n // 5}" for n in range(200)], 4, 300, seed=0)
    assert made["balanced_accuracy"].value == pytest.approx(np.mean(
        [(predicted[truth == k] == k).mean() for k in range(3)]))  # fmt: skip
    assert made["macro_f1"].value == pytest.approx(f1_score(truth, predicted, labels=[0, 1, 2], average="macro"))
    for score in made.values():
        assert score.low < score.value < score.high


def test_the_interval_is_that_of_a_bootstrap_over_patients() -> None:
    """Against resampling rows of whole patients one draw at a time."""
    rng = np.random.default_rng(5)
    groups = [f"p{n:02d}" for n in range(30) for _ in range(int(rng.integers(1, 9)))]
    easy = {group: rng.random() < 0.6 for group in set(groups)}  # rows of a patient fail together
    truth = rng.integers(2, size=len(groups))
    predicted = np.where([easy[g] for g in groups], truth, 1 - truth)
    made = class_scores(predicted, truth, groups, 2, 4000, seed=1)["balanced_accuracy"]
    of_group = {g: np.flatnonzero(np.array(groups) == g) for g in set(groups)}
    names, drawn = sorted(of_group), []
    for _ in range(1500):
        rows = np.concatenate([of_group[names[k]] for k in rng.integers(30, size=30)])
        drawn.append(balanced_accuracy_score(truth[rows], predicted[rows]))
    assert made.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert made.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.03)
    alone = class_scores(predicted, truth, [str(n) for n in range(len(groups))], 2, 4000, seed=1)
    narrow = alone["balanced_accuracy"]
    assert made.high - made.low > 1.4 * (narrow.high - narrow.low)  # rows that pose as patients flatter


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(2, size=300)
    groups = [str(n) for n in range(300)]
    first = np.where(rng.random(300) < 0.7, truth, 1 - truth)
    second = first.copy()
    second[:12] = 1 - truth[:12]  # the same answers but for twelve
    made = class_scores_difference(first, second, truth, groups, 2, 2000, seed=0)["balanced_accuracy"]
    a, b = (class_scores(p, truth, groups, 2, 2000, seed=0)["balanced_accuracy"] for p in (first, second))
    assert made.value == pytest.approx(a.value - b.value)
    assert made.high - made.low < 0.5 * (a.high - a.low)
    same = class_scores_difference(first, first, truth, groups, 2, 200, seed=0)["macro_f1"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_mean_score_weighs_items_and_resamples_patients() -> None:
    values = np.array([1.0, 1, 1, 0])
    made = mean_score(values, ["a", "a", "a", "b"], 500, seed=0)
    assert (made.value, made.low, made.high) == (0.75, 0.0, 1.0)


def test_rankme_of_known_spectra() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(64, 16)))[0]  # 16 equal singular values
    assert rankme(basis) == pytest.approx(16, rel=1e-4)
    assert rankme(basis[:, :4] @ rng.normal(size=(4, 32))) < 4.001
    shares = np.array([0.7, 0.2, 0.1])
    made = basis[:, :3] * shares
    assert rankme(made) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert rankme(np.zeros((5, 3))) == 0


def test_a_collapsed_encoder_shows() -> None:
    rng = np.random.default_rng(1)
    healthy = rng.normal(size=(300, 48))
    collapsed = np.outer(1 + 0.1 * rng.random(300), rng.normal(size=48)) + 1e-4 * rng.normal(size=(300, 48))
    assert rankme(healthy) > 40
    assert rankme(collapsed) < 1.2
    assert abs(mean_cosine(healthy)) < 0.02
    assert mean_cosine(collapsed) > 0.999


def test_mean_cosine_is_the_mean_over_pairs() -> None:
    x = np.random.default_rng(4).normal(size=(9, 5))
    pairs = [
        x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for i in range(9) for j in range(9) if i != j
    ]
    assert mean_cosine(x) == pytest.approx(np.mean(pairs))


def test_the_token_map_is_ridge_regression_on_standardised_tokens() -> None:
    rng = np.random.default_rng(0)
    tokens, shares = rng.normal(2, 3, size=(500, 6)), rng.random((500, 2))
    weights, offsets = fit_token_map(tokens, shares)
    scaler = StandardScaler().fit(tokens)
    oracle = Ridge(alpha=TOKEN_RIDGE * 500).fit(scaler.transform(tokens), shares)
    assert np.allclose(tokens @ weights + offsets, oracle.predict(scaler.transform(tokens)))


def test_the_threshold_is_the_one_with_the_best_dice() -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(4):
        truth = np.zeros((30, 30), bool)
        truth[5:12, 8:16] = True
        images.append((0.1 + 0.15 * truth + 0.05 * rng.normal(size=truth.shape), truth))
    made = choose_threshold(images)
    means = {t: np.mean([dice((x > t).astype(int), y.astype(int), 2) for x, y in images]) for t in THRESHOLDS}
    assert made == max(means, key=means.__getitem__)
    assert made < 0.3  # where half would have drawn nothing


def test_token_shares_count_pixels() -> None:
    mask = np.zeros((12, 8), np.uint8)
    mask[:3], mask[3:6, 4:] = 1, 2
    shares = token_shares(mask, 3, 2)
    assert np.allclose(shares.sum(axis=-1), 1)
    assert np.allclose(shares[:, :, 1], [[0.5, 0.5], [0, 0]])
    assert np.allclose(shares[:, :, 2], [[0, 0.5], [0, 0]])
    # a grid that does not divide the mask: the total area is kept
    uneven = token_shares(mask, 3, 5)
    assert uneven.mean(axis=(0, 1)) == pytest.approx([(mask == k).mean() for k in range(3)])


def test_overlap_is_dice_and_its_union() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(3, size=(20, 20)), rng.integers(3, size=(20, 20))
    found = overlap(a, b, 3)
    assert found[0] == dice(a, b, 3)
    unions = [((a == k) & (b == k)).sum() / ((a == k) | (b == k)).sum() for k in (1, 2)]
    assert found[1] == pytest.approx(np.mean(unions))
    assert overlap(np.zeros((2, 2)), np.zeros((2, 2)), 2) == (1.0, 1.0)


def test_differences_over_one_run_are_those_of_the_run() -> None:
    rng = np.random.default_rng(3)
    truth, first, second = (rng.integers(0, 3, 60) for _ in range(3))
    groups = [str(n // 4) for n in range(60)]
    over = class_scores_over_seeds([first], [second], truth, groups, 3, 200, seed=1)
    assert over == class_scores_difference(first, second, truth, groups, 3, 200, seed=1)
    a, b = rng.random(60), rng.random(60)
    over, one = (
        mean_score_over_seeds([a], [b], groups, 200, seed=1),
        mean_score_difference(a, b, groups, 200, seed=1),
    )
    assert (over.value, over.low, over.high) == pytest.approx((one.value, one.low, one.high))


def test_runs_that_disagree_widen_the_interval() -> None:
    """Every patient says the same, so that all of the width comes from the runs."""
    groups = [str(n) for n in range(30)]
    first = [np.full(30, value) for value in (0.5, 0.6, 0.9)]
    second = [np.full(30, 0.5)] * 3
    over = mean_score_over_seeds(first, second, groups, 400, seed=1)
    assert over.value == pytest.approx((0.0 + 0.1 + 0.4) / 3)
    expected = scipy.stats.ttest_1samp([0.0, 0.1, 0.4], 0.0).confidence_interval(0.95)
    assert (over.low, over.high) == pytest.approx((expected.low, expected.high))


def test_runs_that_agree_leave_the_interval_of_the_patients() -> None:
    rng = np.random.default_rng(5)
    a, b, groups = rng.random(60), rng.random(60), [str(n // 4) for n in range(60)]
    over, one = (
        mean_score_over_seeds([a] * 3, [b] * 3, groups, 400, seed=1),
        mean_score_difference(a, b, groups, 400, seed=1),
    )
    assert (over.value, over.low, over.high) == pytest.approx((one.value, one.low, one.high))


def test_three_runs_cover_the_true_difference_as_often_as_promised() -> None:
    """Runs and patients both vary; a percentile bootstrap over the three runs reaches 85 % here."""
    covered = 0
    for trial in range(400):
        rng = np.random.default_rng(trial)
        of_patient, of_run = rng.normal(0, 0.05, 40), rng.normal(0, 0.03, 3)
        first = [0.1 + of_patient + of_run[k] + rng.normal(0, 0.02, 40) for k in range(3)]
        over = mean_score_over_seeds(first, [np.zeros(40)] * 3, [str(n) for n in range(40)], 200, trial)
        covered += over.low <= 0.1 <= over.high
    assert covered >= 0.93 * 400
