import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from usfm.data.degrade import DegradeConfig, degrade
from usfm.data.labelled_set import LabelledSet
from usfm.data.task_config import TaskConfig
from usfm.errors import DataError, NonFiniteAnswer
from usfm.metrics.enhancement import psnr
from usfm.metrics.evaluation import HIGHER_IS_BETTER, METRIC, batch_for, evaluate
from usfm.metrics.robustness import robustness
from usfm.metrics.segmentation import dice

CPU, PX, COUNT = torch.device("cpu"), 32, 8


class Rule(nn.Module):
    """A network that is a function, and remembers what it was shown."""

    img_px = PX

    def __init__(self, rule) -> None:
        super().__init__()
        self.rule, self.seen = rule, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return self.rule(images)


def brightness_classes(images: torch.Tensor) -> torch.Tensor:
    bright = images.mean(dim=(1, 2, 3))
    return torch.stack([20 * (bright - 0.4), 20 * (0.4 - bright)], dim=1)


def threshold(images: torch.Tensor) -> torch.Tensor:
    return torch.cat([0.5 - images, images - 0.5], dim=1)


def task_of(kind: str, **values) -> TaskConfig:
    classes = {"classification": {"bright": ["b"], "dark": ["d"]}, "multilabel": {"a": ["a"], "b": ["b"]},
               "segmentation": {"disc": ["*"]}}.get(kind, {})  # fmt: skip
    return TaskConfig.build({"name": "made", "kind": kind, "organs": ["heart", "lung"], "classes": classes,
                             "canvas_px": 64} | values)  # fmt: skip


def made_set() -> LabelledSet:
    """Bright discs on grey, odd images smaller; two images a patient, two organs; pixels of 0.5 mm, one unknown."""
    rng = np.random.default_rng(0)
    image, mask = np.zeros((COUNT, 64, 64), np.uint8), np.zeros((COUNT, 64, 64), np.uint8)
    height, width = np.full(COUNT, 64), np.where(np.arange(COUNT) % 2, 48, 64)
    y, x = np.mgrid[:64, :64]
    for n in range(COUNT):
        disc = (y - 30) ** 2 + (x - 24) ** 2 <= (8 + n) ** 2
        grey = 40 + 10 * n + rng.integers(0, 20, (64, 64)) + 130 * disc
        image[n, :, : width[n]], mask[n, :, : width[n]] = grey[:, : width[n]].clip(0, 255), disc[:, : width[n]]
    return LabelledSet(
        ids=[f"i{n}" for n in range(COUNT)], groups=[f"p{n // 2}" for n in range(COUNT)], image=image,
        height=height, width=width, label=np.arange(COUNT) % 2, target=np.zeros((COUNT, 0), np.float32),
        mask=mask, pair=np.zeros((0, 64, 64), np.uint8), organs=["heart"] * 4 + ["lung"] * 4,
        sources=["here"] * 6 + ["there"] * 2, licences=["CC0-1.0"] * COUNT, splits=["test"] * COUNT,
        spacing_mm=np.array([0.5] * (COUNT - 1) + [np.nan]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data() -> LabelledSet:
    return made_set()


def test_masks_are_scored_at_the_stored_size(data: LabelledSet) -> None:
    task, model = task_of("segmentation", measure="circumference"), Rule(threshold)
    got = evaluate(model, data, task, PX, CPU)
    assert got.metric == "dice"
    assert got.classes == ["background", "disc"]
    for row, (n, item) in zip(model.seen[0], enumerate(got.per_item), strict=True):
        size = (int(data.height[n]), int(data.width[n]))
        full = nn.functional.interpolate(threshold(row[None]), size, mode="bilinear", align_corners=False)
        truth = data.mask[n, : size[0], : size[1]]
        assert item["value"] == item["dice"] == dice(full[0].argmax(0).numpy(), truth, 2)
        assert (item["id"], item["group"]) == (f"i{n}", f"p{n // 2}")
        assert item["hd95_mm"] == pytest.approx(item["hd95_px"] / 2) or n == COUNT - 1
        # the disc's outline: pixels whose centre is within r
        circle = 2 * math.pi * (8 + n) * 0.5
        assert item["circumference_truth_mm"] == pytest.approx(circle, rel=0.04) or n == COUNT - 1
    assert math.isnan(got.per_item[-1]["hd95_mm"])
    assert got.value == got.scores["dice"].value == pytest.approx(np.mean([i["dice"] for i in got.per_item]))
    assert got.scores["hd95_mm"].value == pytest.approx(np.mean([i["hd95_mm"] for i in got.per_item[:-1]]))
    error = [abs(i["circumference_mm"] - i["circumference_truth_mm"]) for i in got.per_item[:-1]]
    assert got.scores["circumference_mae_mm"].value == pytest.approx(np.mean(error))
    for score in got.scores.values():
        assert score.low <= score.value <= score.high
    fast = evaluate(model, data, task, PX, CPU, full=False)
    assert fast.value == got.value
    assert list(fast.scores) == ["dice"]
    assert set(fast.per_item[0]) == {"id", "group", "organ", "source", "split", "value"}


def test_several_classes_have_columns_of_their_own(data: LabelledSet) -> None:
    task = task_of("segmentation", classes={"disc": ["disc"], "rest": ["rest"]})
    both = replace(data, mask=np.where(np.arange(64) < 6, 2, data.mask).astype(np.uint8))
    model = Rule(lambda images: torch.cat([threshold(images), torch.full_like(images, -9)], dim=1))
    got = evaluate(model, both, task, PX, CPU)
    for item in got.per_item:
        assert item["dice_rest"] == 0
        assert item["missed_rest"] == 1
        assert item["dice"] == pytest.approx(item["dice_disc"] / 2)
        assert item["hd95_px"] == item["hd95_px_disc"]
    assert got.scores["dice_disc"].value > 0.7
    assert "hd95_px_rest" not in got.scores, "defined for no item"


def test_sliding_windows_see_the_stored_pixels(data: LabelledSet) -> None:
    task, model = task_of("segmentation"), Rule(threshold)
    got = evaluate(model, data, task, PX, CPU, full=False, mode="sliding")
    for n, item in enumerate(got.per_item):
        high, wide = int(data.height[n]), int(data.width[n])
        grey = data.image[n, :high, :wide] / np.float32(255)
        assert item["value"] == dice((grey > 0.5).astype(int), data.mask[n, :high, :wide], 2)
    halved = evaluate(model, data, task, PX, CPU, full=False, mode="sliding", inputs=lambda images, _: images / 2)
    assert halved.value < got.value
    for overlap, windows in ((0.0, 4), (0.5, 9)):  # of 32 x 32 px over 64 x 64
        model.seen.clear()
        evaluate(model, _part(data, 1), task, PX, CPU, full=False, mode="sliding", overlap=overlap)
        assert sum(len(seen) for seen in model.seen) == windows


def test_larger_sides_take_no_more_memory() -> None:
    assert [batch_for(side) for side in (32, 224, 448, 512, 4096)] == [64, 64, 16, 12, 1]


def test_classes_and_their_confusion(data: LabelledSet) -> None:
    got = evaluate(Rule(brightness_classes), data, task_of("classification"), PX, CPU)
    predicted = [i["predicted"] for i in got.per_item]
    truth = [i["truth"] for i in got.per_item]
    assert truth == ["bright", "dark"] * 4
    recall = [np.mean([p == t for p, t in zip(predicted, truth, strict=True) if t == k]) for k in got.classes]
    assert got.value == pytest.approx(np.mean(recall))
    assert got.confusion == [[sum((t, p) == (a, b) for t, p in zip(truth, predicted, strict=True))
                              for b in got.classes] for a in got.classes]  # fmt: skip
    assert {"accuracy", "macro_f1", "auroc", "auprc", "ece"} < set(got.scores)
    for item in got.per_item:
        assert item["p_bright"] + item["p_dark"] == pytest.approx(1)
        assert item["probability"] == max(item["p_bright"], item["p_dark"])
        assert item["value"] == float(item["truth"] == item["predicted"])
    patients = got.per_patient()
    assert [p["group"] for p in patients] == ["p0", "p1", "p2", "p3"]
    assert patients[1]["value"] == pytest.approx(np.mean([i["value"] for i in got.per_item[2:4]]))
    assert patients[1]["items"] == 2
    organs, sources = got.per_organ(), got.per_source()
    assert [(o["organ"], o["items"], o["groups"]) for o in organs] == [("heart", 4, 2), ("lung", 4, 2)]
    assert [(s["source"], s["items"]) for s in sources] == [("here", 6), ("there", 2)]
    heart = evaluate(Rule(brightness_classes), _part(data, 4), task_of("classification"), PX, CPU, full=False)
    assert organs[0]["value"] == heart.value


def _part(data: LabelledSet, count: int) -> LabelledSet:
    return LabelledSet(**{k: v if isinstance(v, dict) else v[:count] for k, v in vars(data).items()})


def test_several_labels_need_both_answers(data: LabelledSet) -> None:
    target = np.stack([np.arange(COUNT) >= 4, np.ones(COUNT)], axis=1).astype(np.float32)
    labelled = replace(data, target=target)
    model = Rule(lambda images: 20 * (images.mean(dim=(2, 3)) - 0.4) * torch.tensor([[1.0, 1.0]]))
    got = evaluate(model, labelled, task_of("multilabel"), PX, CPU)
    assert got.metric == "auroc"
    share = [i["p_a"] for i in got.per_item]
    expected = np.mean([[(b > a) + 0.5 * (b == a) for b in share[4:]] for a in share[:4]])
    assert got.value == pytest.approx(expected), "class b is always on: only class a counts"
    assert got.per_item[0]["truth"] == "b"
    assert got.per_item[5]["truth"] == "a;b"
    assert math.isnan(got.per_organ()[0]["value"]), "the heart's images are all without a"
    with pytest.raises(DataError, match="auroc is not defined on 4 items"):
        evaluate(model, _part(labelled, 4), task_of("multilabel"), PX, CPU)


def test_numbers_come_back_in_their_unit(data: LabelledSet) -> None:
    numbers = replace(_part(data, 6), target=np.arange(6, dtype=np.float32)[:, None] + 10)
    values = {"target": "HC_mm", "unit": "mm"}
    got = evaluate(Rule(lambda x: torch.full((len(x), 1), 12.0)), numbers, task_of("regression", **values), PX, CPU)
    assert [i["error"] for i in got.per_item] == [2, 1, 0, -1, -2, -3]
    assert [i["value"] for i in got.per_item] == [2, 1, 0, 1, 2, 3]
    assert {i["unit"] for i in got.per_item} == {"mm"}
    assert got.value == pytest.approx(1.5)
    assert got.scores["bias"].value == pytest.approx(-0.5)
    assert math.isnan(got.scores["pearson"].value), "the same answer for all"
    task = task_of("regression", scales_with_size=True, **values)
    scaled = evaluate(Rule(lambda x: torch.full((len(x), 1), 0.25)), numbers, task, PX, CPU)
    wide = [0.25 * 0.5 * math.sqrt(64 * w) for w in data.width[:6]]
    assert [i["predicted"] for i in scaled.per_item] == pytest.approx(wide)
    plain = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert plain["scores"]["pearson"]["value"] is None
    assert plain["per_item"][5]["predicted"] == 12.0


def test_restored_images_are_compared_with_the_clean_ones(data: LabelledSet) -> None:
    config = DegradeConfig(chance=1)
    task, nothing = task_of("enhancement", degrade=config.model_dump()), Rule(lambda images: images)
    got = evaluate(nothing, data, task, PX, CPU, seed=3)
    again = evaluate(nothing, data, task, PX, CPU, seed=3, full=False)
    assert got.value == again.value
    assert got.value != evaluate(nothing, data, task, PX, CPU, seed=4, full=False).value
    for item in got.per_item:
        assert item["psnr"] == item["psnr_input"] == item["value"]
        assert item["ssim"] == item["ssim_input"]
        assert 0.5 < item["gcnr"] <= 1, "the disc stands out"
        assert item["gcnr"] == item["gcnr_input"]
    half = replace(data, mask=data.mask * (np.arange(COUNT) < 4)[:, None, None])
    flat = evaluate(Rule(lambda images: 0 * images), half, task, PX, CPU, seed=3)
    assert [item["gcnr"] for item in flat.per_item[:4]] == [0] * 4
    assert math.isnan(flat.per_item[4]["gcnr"]), "no mask, no region"
    assert flat.scores["gcnr_input"].value == pytest.approx(np.mean([i["gcnr"] for i in got.per_item[:4]]))
    seen = nothing.seen[0]
    perfect = Rule(lambda images: images)
    evaluate(perfect, data, task_of("enhancement", degrade={"chance": 0}), PX, CPU, full=False)
    clean = perfect.seen[0]
    assert torch.equal(seen, degrade(clean, torch.arange(COUNT), config, 3))
    assert [i["psnr"] for i in got.per_item] == pytest.approx(psnr(seen, clean).tolist(), abs=1e-4)
    wild = evaluate(Rule(lambda images: images + 9), data, task, PX, CPU, full=False)
    assert 0 < wild.value < 10, "answers are clamped to what a screen can show"


def test_real_pairs_and_sliding_restoration(data: LabelledSet) -> None:
    pairs = replace(data, pair=(data.image * 0.9).astype(np.uint8))
    task = task_of("enhancement")
    for mode in ("whole", "sliding"):
        kept = evaluate(Rule(lambda images: images), pairs, task, PX, CPU, mode=mode)
        right = evaluate(Rule(lambda images: 0.9 * images), pairs, task, PX, CPU, full=False, mode=mode)
        assert kept.value + 10 < right.value
        assert kept.scores["psnr"].value == pytest.approx(kept.scores["psnr_input"].value, abs=1e-3)


def test_robustness_is_a_paired_drop(data: LabelledSet) -> None:
    task, steps = task_of("segmentation"), []
    rows = robustness(
        Rule(threshold), data, task, PX, CPU, corruptions=["gain", "blur"], advance=lambda: steps.append(1)
    )
    assert [(r["corruption"], r["severity"]) for r in rows] == [
        ("none", 0), *(("gain", s) for s in (1, 2, 3)), *(("blur", s) for s in (1, 2, 3)),
    ]  # fmt: skip
    assert len(steps) == 6
    clean = evaluate(Rule(threshold), data, task, PX, CPU)
    assert {k: rows[0][k] for k in ("value", "low", "high")} == pytest.approx(vars(clean.scores["dice"]))
    assert (rows[0]["drop"], rows[0]["drop_low"], rows[0]["drop_high"]) == (0, 0, 0)
    for row in rows:
        assert row["drop"] == pytest.approx(clean.value - row["value"])
    assert rows[3]["drop"] > max(rows[1]["drop"], 0.1)
    assert robustness(Rule(threshold), data, task, PX, CPU, corruptions=["gain", "blur"]) == rows
    errors = replace(data, target=np.ones((COUNT, 1), np.float32))
    worse = robustness(Rule(lambda x: 2 * x.mean(dim=(2, 3))), errors, task_of("regression", target="a"), PX, CPU,
                       corruptions=["gain"])  # fmt: skip
    assert worse[3]["drop"] == pytest.approx(worse[3]["value"] - worse[0]["value"]), "of errors more is worse"


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    ("kind", "mode", "rule"),
    [
        ("classification", "whole", brightness_classes),
        ("multilabel", "whole", brightness_classes),
        ("regression", "whole", lambda images: images.mean(dim=(1, 2, 3))[:, None]),
        ("segmentation", "whole", threshold),
        ("segmentation", "sliding", threshold),
        ("enhancement", "whole", lambda images: images),
        ("enhancement", "sliding", lambda images: images),
    ],
)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_one_answer_that_is_no_number_is_no_score(
    data: LabelledSet, kind: str, mode: str, rule, wrong: float, full: bool
) -> None:
    labels = np.stack([np.arange(COUNT) % 2, np.arange(COUNT) % 3 == 0], axis=1).astype(np.float32)
    given = replace(data, target=labels if kind == "multilabel" else labels[:, :1], pair=data.image)
    values = {"target": "x", "unit": "%"} if kind == "regression" else {}

    def diverged(images: torch.Tensor) -> torch.Tensor:
        answers = rule(images)
        answers[-1].view(-1)[0] = wrong
        return answers

    ask = {"mode": mode, "full": full}
    assert math.isfinite(evaluate(Rule(rule), given, task_of(kind, **values), PX, CPU, **ask).value)
    first = "i7" if mode == "whole" else "i0"  # a network that slides is shown one image at a time
    with pytest.raises(
        NonFiniteAnswer, match=f"task made: .* is NaN or infinite, the first is {first}; it has div"
    ):
        evaluate(Rule(diverged), given, task_of(kind, **values), PX, CPU, **ask)


def test_a_distance_that_the_rule_for_empty_masks_leaves_undefined_is_counted(data: LabelledSet) -> None:
    nothing = evaluate(Rule(lambda images: threshold(images) * 0 + 1), data, task_of("segmentation"), PX, CPU)
    assert nothing.scores["missed"].value == 1
    assert nothing.value == 0
    assert "hd95_px" not in nothing.scores


def test_every_selecting_score_has_a_direction() -> None:
    assert set(METRIC.values()) <= set(HIGHER_IS_BETTER)
    assert not HIGHER_IS_BETTER[METRIC["regression"]]
