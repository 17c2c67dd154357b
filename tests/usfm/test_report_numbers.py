import math
from pathlib import Path

import pytest

from usfm.report import numbers

HEADER = "task,kind,init,fraction,seed,train_items,train_groups,metric,value,val_value,seconds,status,bundle\n"


def step(number: int, counts: dict[str, int], **values) -> dict:
    base = {"step": number, "samples": 10 * number, "loss": 1.0, "spatial": 1.0, "frequency": 1.0, "lr": 1e-3,
            "grad_norm": 1.0, "images_per_s": 10.0, "data_wait": 0.1, "organ_count": counts,
            "organ_loss": {organ: 1.0 for organ, n in counts.items() if n}}  # fmt: skip
    return base | values


def test_organ_mix_equals_a_hand_count() -> None:
    journal = [step(1, {"heart": 5, "lung": 5}), step(2, {"heart": 4, "lung": 6}), step(3, {"heart": 6, "lung": 4})]
    heart, lung = numbers.organ_mix({"heart": 3, "lung": 9}, {"heart": 0.5, "lung": 0.5}, journal)
    assert (heart.rows, heart.natural, heart.planned, heart.drawn) == (3, 0.25, 0.5, 15)
    assert (lung.drawn, lung.natural) == (15, 0.75)
    assert (heart.achieved, lung.achieved) == (0.5, 0.5)
    assert (heart.repeats, lung.repeats) == (5.0, pytest.approx(15 / 9))


def test_training_summary_by_hand() -> None:
    journal = [
        step(1, {"heart": 5, "lung": 5}, images_per_s=1.0, data_wait=0.9, loss=3.0),
        step(2, {"heart": 5, "lung": 5}, loss=2.0),
        step(3, {"heart": 5, "lung": 5}, loss=1.5),
        step(4, {"heart": 9, "lung": 1}, loss=1.0, organ_loss={"heart": 0.4, "lung": 0.8}),
    ]
    summary = numbers.training_summary(journal)
    assert (summary.steps, summary.images, summary.seconds) == (4, 40, pytest.approx(13.0))
    assert summary.rate == (pytest.approx(10.0), pytest.approx(40 / 13))
    assert summary.wait == (pytest.approx(0.1), pytest.approx((0.9 * 10 + 3 * 0.1) / 13))
    assert summary.terms[0] == ("loss", 3.0, 1.0, 1.0)  # the last quarter of four steps is one step
    assert summary.organ_loss == {"heart": pytest.approx(0.4), "lung": pytest.approx(0.8)}


def test_organ_loss_is_weighted_by_samples() -> None:
    quiet = [step(n, {"heart": 10}) for n in range(1, 7)]
    late = [
        step(7, {"heart": 1}, organ_loss={"heart": 1.0}),
        step(8, {"heart": 3}, organ_loss={"heart": 0.2}),
    ]
    assert numbers.training_summary(quiet + late).organ_loss == {"heart": pytest.approx((1.0 + 3 * 0.2) / 4)}


def test_label_efficiency_mean_and_sd_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(
        HEADER
        + "head,segmentation,pretrained,0.05,1,10,4,dice,0.8,0.9,1,ok,a\n"
        + "head,segmentation,pretrained,0.05,0,12,5,dice,0.6,0.9,1,ok,b\n"
        + "head,segmentation,pretrained,0.05,2,11,5,dice,0.7,0.9,1,ok,b\n"
        + "head,segmentation,scratch,0.05,0,12,5,dice,0.5,0.9,1,ok,c\n"
        + "head,segmentation,scratch,0.05,1,,,,,,,out of memory,\n",
        encoding="utf-8",
    )
    trials = numbers.read_trials(path)
    assert math.isnan(trials[4].value)
    pretrained, scratch = numbers.label_efficiency(trials)["head"]
    assert (pretrained.seeds, pretrained.values, pretrained.groups) == ((0, 1, 2), (0.6, 0.8, 0.7), (5, 4, 5))
    assert pretrained.mean == pytest.approx(0.7)
    assert pretrained.sd == pytest.approx(0.1)  # sqrt((0.01 + 0.01 + 0) / 2)
    assert (scratch.values, scratch.sd) == ((0.5,), None)
    differences = numbers.paired_difference([pretrained, scratch], "pretrained", "scratch")
    assert differences == {0.05: (pytest.approx(0.1),)}  # seed 0 alone has both


def test_row_percentages() -> None:
    assert numbers.row_percentages([[3, 1], [0, 0]]) == [[75.0, 25.0], [0.0, 0.0]]


def test_running_mean_equals_a_loop() -> None:
    values = [4.0, 2.0, 9.0, 1.0, 7.0]
    expected = [sum(values[max(0, k - 2) : k + 1]) / len(values[max(0, k - 2) : k + 1]) for k in range(5)]
    assert numbers.running_mean(values, 3) == pytest.approx(expected)
