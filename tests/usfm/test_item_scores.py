"""Every score against a case worked out by hand or another library's answer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from usfm.metrics import classification as of
from usfm.metrics.enhancement import gcnr, neighbourhood, psnr, speckle_index, ssim
from usfm.metrics.intervals import mean_score, mean_score_over_seeds, weighted_difference, weighted_score
from usfm.metrics.item_scores import bounds, item_scores, selecting_score
from usfm.metrics.regression import (
    bias,
    limit_of_agreement,
    mean_absolute_error,
    pearson,
    root_mean_square_error,
    weighted_mean,
)
from usfm.metrics.segmentation import mask_scores, mean_over_classes


def plain(score, n: int) -> float:
    return float(score(np.ones((1, n)))[0])


# ---- classification

answers = st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=4, max_size=40)


@settings(max_examples=25, deadline=None)
@given(answers)
def test_curves_are_those_of_scikit_learn_weighted_too(rows) -> None:
    """Many equal scores, and weights as a bootstrap draws them, 0 among them."""
    truth, score = np.array([r[0] for r in rows]), np.array([r[1] / 6 for r in rows])
    weights = np.stack([np.ones(len(rows)), np.array([float(r[2]) for r in rows])])
    for got, asked, weight in zip(of.auroc(score, truth)(weights), range(2), weights, strict=True):
        here, away = weight[truth].sum(), weight[~truth].sum()
        if here and away:
            assert got == pytest.approx(roc_auc_score(truth, score, sample_weight=weight)), asked
        else:
            assert np.isnan(got)
    for got, weight in zip(of.average_precision(score, truth)(weights), weights, strict=True):
        if weight[truth].sum():
            assert got == pytest.approx(average_precision_score(truth, score, sample_weight=weight))
        else:
            assert np.isnan(got)


def test_a_ranking_worked_out_by_hand() -> None:
    """Positives at 0.9 and 0.4, negatives at 0.6, 0.4, 0.1: of six pairs four are right and one is a tie."""
    score, truth = np.array([0.9, 0.6, 0.4, 0.4, 0.1]), np.array([True, False, True, False, False])
    assert plain(of.auroc(score, truth), 5) == pytest.approx(4.5 / 6)
    # precision 1 at recall 1/2, 2/4 at recall 1
    assert plain(of.average_precision(score, truth), 5) == pytest.approx(0.5 * 1 + 0.5 * 0.5)


def test_macro_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, 60), rng.integers(0, 4, 60)
    weight = rng.integers(0, 3, 60).astype(float)
    drawn = np.repeat(np.arange(60), weight.astype(int))
    got = of.balanced_accuracy_of(predicted, truth, 4)(weight[None])[0]
    assert got == pytest.approx(np.mean([np.mean(predicted[drawn][truth[drawn] == k] == k) for k in range(3)]))
    known = truth < 3
    only = np.where(predicted == 3, 0, predicted)
    assert plain(of.balanced_accuracy_of(only, truth, 3), 60) == pytest.approx(balanced_accuracy_score(truth, only))
    assert plain(of.macro_f1_of(only, truth, 3), 60) == pytest.approx(f1_score(truth, only, average="macro"))
    assert plain(of.accuracy(only, truth), 60) == pytest.approx((only == truth)[known].mean())


def test_calibration_by_hand_and_by_torchmetrics() -> None:
    """Bins of width 1/2: (0.25, 0.35 | one right) is off by 0.2, (0.9, 0.7 | both right) by 0.2."""
    confidence, right = np.array([0.25, 0.35, 0.9, 0.7]), np.array([True, False, True, True])
    assert plain(of.calibration_error(confidence, right, bins=2), 4) == pytest.approx(0.5 * 0.2 + 0.5 * 0.2)
    rows = of.reliability(confidence, right, bins=2)
    assert [(r["items"], round(r["confidence"], 6), r["right"]) for r in rows] == [(2, 0.3, 0.5), (2, 0.8, 1.0)]
    torch.manual_seed(0)
    shares, truth = torch.randn(200, 3).softmax(1), torch.randint(0, 3, (200,))
    best = shares.max(dim=1)
    got = plain(of.calibration_error(best.values.double().numpy(), (best.indices == truth).numpy()), 200)
    assert got == pytest.approx(float(multiclass_calibration_error(shares, truth, 3, n_bins=15)), abs=1e-6)


def items_of(shares, truth, names) -> list[dict]:
    rows = []
    for n, (share, number) in enumerate(zip(shares, truth, strict=True)):
        best = int(np.argmax(share))
        rows.append({"id": f"i{n}", "group": f"p{n // 2}", "value": float(best == number), "truth": names[number],
                     "predicted": names[best], "probability": share[best],
                     **{f"p_{k}": s for k, s in zip(names, share, strict=True)}})  # fmt: skip
    return rows


def test_scores_come_from_the_rows_alone() -> None:
    names, truth = ["a", "b"], [0, 0, 1, 1]
    shares = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]
    items = items_of(shares, truth, names)
    got = {name: plain(score, 4) for name, score in item_scores("classification", items, names).items()}
    assert got == pytest.approx({
        "balanced_accuracy": 0.75, "accuracy": 0.75, "macro_f1": (2 / 3 + 0.8) / 2, "auroc": 1.0, "auprc": 1.0,
        # bins of 1/15: 0.6 (wrong), 0.7 (right), 0.8 (right), 0.9 (right), alone each
        "ece": (0.6 + 0.3 + 0.2 + 0.1) / 4,
    })  # fmt: skip
    assert plain(selecting_score("balanced_accuracy", items, names), 4) == 0.75


def test_several_labels_by_hand() -> None:
    names = ["fluid", "line"]
    rows = [((1, 0), (0.9, 0.2)), ((0, 0), (0.6, 0.8)), ((1, 1), (0.7, 0.6))]
    items = []
    for truth, share in rows:
        said = {f"t_{k}": t for k, t in zip(names, truth, strict=True)}
        items.append({"value": 0.0, **said, **{f"p_{k}": p for k, p in zip(names, share, strict=True)}})
    got = {name: plain(score, 3) for name, score in item_scores("multilabel", items, names).items()}
    assert got["auroc"] == pytest.approx((1.0 + 0.5) / 2)
    assert got["auprc"] == pytest.approx((1.0 + 0.5) / 2)
    assert got["macro_f1"] == pytest.approx((2 * 2 / (3 + 2) + 2 * 1 / (2 + 1)) / 2)
    assert got["sensitivity"] == 1.0
    assert got["specificity"] == pytest.approx((0 + 1 / 2) / 2)
    # fluid: 0.9 and 0.7 are there, 0.6 is not; line: 0.6 is there, 0.2 and 0.8 are not
    assert got["ece"] == pytest.approx(((0.1 + 0.3 + 0.6) / 3 + (0.4 + 0.2 + 0.8) / 3) / 2)


# ---- masks


def square(top: int, left: int, side: int = 4, px: int = 16) -> np.ndarray:
    mask = np.zeros((px, px), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_square_that_is_moved_by_two_pixels() -> None:
    got = mask_scores(square(4, 4), square(4, 6), 2, spacing_mm=0.5)[0]
    assert got.dice == 0.5
    assert got.iou == pytest.approx(8 / 24)
    assert got.sensitivity == 0.5
    assert got.specificity == pytest.approx(1 - 8 / 240)
    # 12 contour pixels each. From one contour to the other: the far side 2 (4 px), the next column 1 (2 px),
    # the top and bottom of the overlap 0 (4 px), its near side (rows 5, 6) 1 (2 px)
    far = [2.0] * 4 + [1.0] * 2 + [0.0] * 4 + [1.0] * 2
    assert got.assd_px == pytest.approx(np.mean(far))
    assert got.hd95_px == pytest.approx(np.quantile(far, 0.95))
    assert got.assd_mm == pytest.approx(got.assd_px / 2)
    assert got.hd95_mm == pytest.approx(got.hd95_px / 2)
    assert got.missed == 0


def test_the_hausdorff_distance_takes_the_worse_direction() -> None:
    """A speck far away is no distance from the truth, but a distance of 9 px to it."""
    truth = square(1, 1, 2)
    predicted = np.where(square(1, 1, 2) | square(1, 11, 2), 1, 0)
    got = mask_scores(predicted, truth, 2, 1.0)[0]
    assert got.hd95_px == pytest.approx(np.quantile([0] * 4 + [9, 10] * 2, 0.95))
    assert got.assd_px == pytest.approx((4 * 0 + 9 * 2 + 10 * 2 + 4 * 0) / 12)


def test_rules_for_empty_masks() -> None:
    none, some = np.zeros((8, 8), np.uint8), square(2, 2, 3, 8)
    both = mask_scores(none, none, 2, 1.0)[0]
    assert (both.dice, both.iou, both.hd95_px, both.assd_mm, both.missed) == (1, 1, 0, 0, 0)
    assert math.isnan(both.sensitivity)
    assert both.specificity == 1
    for predicted, truth in ((none, some), (some, none)):
        one = mask_scores(predicted, truth, 2, 1.0)[0]
        assert (one.dice, one.iou, one.missed) == (0, 0, 1)
        assert math.isnan(one.hd95_px)
        assert math.isnan(one.assd_mm)
    full = np.ones((8, 8), np.uint8)
    assert math.isnan(mask_scores(full, full, 2, 1.0)[0].specificity)
    assert math.isnan(mask_scores(some, some, 2, float("nan"))[0].hd95_mm)


def test_a_mean_over_classes_leaves_out_what_is_not_defined() -> None:
    truth, predicted = square(2, 2), square(2, 2)
    truth[10:12, 10:12] = 2
    scores = mask_scores(predicted, truth, 4, 1.0)
    mean = mean_over_classes(scores)
    assert [s.dice for s in scores] == [1, 0, 1]
    assert mean["dice"] == pytest.approx(2 / 3)
    assert mean["hd95_px"] == 0
    assert mean["missed"] == pytest.approx(1 / 3)
    assert mean["sensitivity"] == pytest.approx(0.5)


# ---- images


def test_psnr_and_ssim_by_hand() -> None:
    clean = torch.full((2, 1, 16, 16), 0.5)
    off = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    assert psnr(off, clean).tolist() == pytest.approx([20, 40], abs=1e-3)
    assert psnr(clean, clean).tolist() == [100, 100]
    # constant images: the structure term is 1, the luminance term is left
    a, b, c = 0.6, 0.5, 1e-4
    assert float(ssim(off, clean)[0]) == pytest.approx((2 * a * b + c) / (a * a + b * b + c), abs=1e-4)
    torch.manual_seed(0)
    texture = torch.rand(1, 1, 32, 32)
    assert float(ssim(texture, texture)) == pytest.approx(1, abs=1e-5)
    assert float(ssim(texture, texture.flip(-1))) < 0.3


def test_gcnr_is_one_minus_the_overlap_of_grey_values() -> None:
    image = np.array([[0.0, 0.0, 0.2, 0.2], [0.2, 0.2, 0.4, 0.4]])
    left = np.array([[True, True, False, False]] * 2)
    # left: half 0, half 0.2; right: half 0.2, half 0.4
    assert gcnr(image, left, ~left) == pytest.approx(0.5)
    assert gcnr(np.where(left, 0.1, 0.9), left, ~left) == 1
    assert gcnr(np.full((2, 4), 0.3), left, ~left) == 0
    assert gcnr(np.sqrt(image), left, ~left) == pytest.approx(0.5), "no change of dynamic range moves it"
    assert math.isnan(gcnr(image, np.zeros((2, 4), bool), left))


def test_a_neighbourhood_is_a_ring() -> None:
    region = np.zeros((40, 20), bool)
    region[10:14, 8:10] = True
    ring = neighbourhood(region, 0.05)
    assert not (ring & region).any()
    # a disc of radius 2 is 5 px across, so straight up and sideways it reaches 2 px
    assert ring[8, 8]
    assert not ring[7, 8]
    assert ring[12, 6]
    assert not ring[12, 5]
    assert neighbourhood(np.ones((8, 8), bool)).sum() == 0


def test_the_speckle_index_is_sd_over_mean() -> None:
    stripes = torch.full((1, 1, 14, 14), 0.2)
    stripes[..., ::2] = 0.6
    # windows of 7 columns: 4 of one and 3 of the other grey
    shares = np.array([[4 / 7, 3 / 7], [3 / 7, 4 / 7]]) @ np.array([0.6, 0.2])
    sd = math.sqrt(4 / 7 * 3 / 7) * 0.4
    assert float(speckle_index(stripes)) == pytest.approx(sd / shares[0], abs=1e-4)
    assert float(speckle_index(torch.full((1, 1, 9, 9), 0.4))) == pytest.approx(0, abs=1e-3)
    assert math.isnan(float(speckle_index(torch.zeros(1, 1, 9, 9))))


# ---- numbers


def test_errors_by_hand() -> None:
    truth, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 5.0, 3.0])
    error = predicted - truth  # 1, 0, 2, -1
    assert plain(mean_absolute_error(predicted, truth), 4) == 1.0
    assert plain(root_mean_square_error(predicted, truth), 4) == pytest.approx(math.sqrt(6 / 4))
    assert plain(bias(predicted, truth), 4) == 0.5
    sd = error.std(ddof=1)
    assert plain(limit_of_agreement(predicted, truth, upper=False), 4) == pytest.approx(0.5 - 1.96 * sd)
    assert plain(limit_of_agreement(predicted, truth, upper=True), 4) == pytest.approx(0.5 + 1.96 * sd)
    assert plain(pearson(predicted, truth), 4) == pytest.approx(np.corrcoef(predicted, truth)[0, 1])
    # weights are repetitions
    weights = np.array([[2.0, 0.0, 1.0, 3.0]])
    again = np.repeat(np.arange(4), [2, 0, 1, 3])
    assert pearson(predicted, truth)(weights)[0] == pytest.approx(np.corrcoef(predicted[again], truth[again])[0, 1])
    limit = limit_of_agreement(predicted, truth, upper=True)(weights)[0]
    assert limit == pytest.approx(error[again].mean() + 1.96 * error[again].std(ddof=1))
    assert math.isnan(plain(pearson(np.full(4, 0.3), truth), 4))


# ---- intervals


def test_a_weighted_mean_has_the_interval_of_the_mean() -> None:
    rng = np.random.default_rng(1)
    values, groups = rng.normal(size=30), [f"g{n // 3}" for n in range(30)]
    expected = mean_score(values, groups, 400, seed=5)
    assert vars(weighted_score(weighted_mean(values), groups, 400, 5)) == pytest.approx(vars(expected))
    runs = rng.normal(size=(2, 3, 30))
    expected = mean_score_over_seeds(list(runs[0]), list(runs[1]), groups, 400, seed=5)
    pairs = [[weighted_mean(run) for run in side] for side in runs]
    assert vars(weighted_difference(*pairs, [groups] * len(pairs[0]), 400, 5)) == pytest.approx(vars(expected))


def test_draws_without_a_score_do_not_count() -> None:
    """Two patients, one of each class: in half of the draws AUROC is not defined, in the others it is 1."""
    score = weighted_score(of.auroc(np.array([0.2, 0.9]), np.array([False, True])), ["p", "q"], 200, seed=0)
    assert (score.value, score.low, score.high) == (1, 1, 1)
    none = weighted_score(weighted_mean(np.array([1.0, 2.0])), ["p", "q"], 0, seed=0)
    assert none.value == 1.5
    assert math.isnan(none.low)


def test_bounds_are_those_of_the_score_also_of_a_class_and_of_the_input() -> None:
    assert [bounds(name) for name in ("dice", "dice_left ear", "hd95_mm_head", "ssim_input")] == [
        (0, 1), (0, 1), (0, np.inf), (-1, 1),
    ]  # fmt: skip
    assert [bounds(name) for name in ("psnr_input", "bias", "loa_low")] == [(-np.inf, np.inf)] * 3
