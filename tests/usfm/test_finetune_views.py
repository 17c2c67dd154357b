"""Batches of fine-tuning: which rows, seen how, with what target, and the loss of each kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shard_factory import HEAD, VIEW, row, write_rows

from usfm.data.degrade import degrade
from usfm.data.labelled_set import LabelledSet
from usfm.data.tasks import load_task
from usfm.errors import ConfigError
from usfm.losses.classification import classification_loss, multilabel_loss
from usfm.losses.regression import regression_loss
from usfm.losses.restoration import RestorationConfig, restoration_loss
from usfm.train.context import PlainContext
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_loss import TaskLoss, class_weights, target_spread
from usfm.train.finetune_order import balanced_rows, shuffled_rows
from usfm.train.finetune_views import Batch, ImageViews, turned

PX = 32
LENGTH = {"name": "length", "kind": "regression", "organs": ["fetal_head"], "target": "mask_perimeter",
          "unit": "mm", "scales_with_size": True}  # fmt: skip
CLEAN = {"name": "clean", "kind": "enhancement", "organs": ["heart"], "degrade": {}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [row("fetal_head", s, n) | {"spacing_mm": 0.5} for s in ("train", "val", "test") for n in range(6)]
    rows += [row("heart", s, n) for s in ("train", "val", "test") for n in range(9)]
    return write_rows(tmp_path_factory.mktemp("views"), rows)


def config_of(shards: Path, task: dict, **values) -> FinetuneConfig:
    return FinetuneConfig.build(
        {"shards": str(shards), "task": {**task, "canvas_px": 64}, "batch_size": 6, **values}
    )


def views_of(config: FinetuneConfig) -> tuple[ImageViews, LabelledSet]:
    sets = load_task(config.shards, config.task)
    chosen = np.arange(len(sets["train"]))
    return ImageViews(config, sets, chosen, PX, PlainContext(torch.device("cpu"))), sets["train"]


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.target, b.target) and a.ids == b.ids


def test_every_row_comes_once_a_round_in_an_order_that_needs_no_memory() -> None:
    chosen = np.array([3, 5, 8, 13, 21])
    rows = shuffled_rows(np.arange(20), chosen, seed=1)
    for turn in range(4):
        assert sorted(rows[5 * turn : 5 * turn + 5]) == chosen.tolist()
    assert (rows[7:11] == shuffled_rows(np.arange(7, 11), chosen, seed=1)).all()
    assert (rows != shuffled_rows(np.arange(20), chosen, seed=2)).any()


def test_balanced_sampling_takes_every_class_equally_often() -> None:
    strata = ["common"] * 9 + ["rare"]
    rows = balanced_rows(np.arange(36), np.arange(10), strata, seed=0)
    assert (rows == 9).sum() == 18
    assert np.bincount(rows, minlength=10)[:9].tolist() == [2] * 9
    assert (rows[10:14] == balanced_rows(np.arange(10, 14), np.arange(10), strata, seed=0)).all()
    assert set(balanced_rows(np.arange(8), np.array([0, 9]), strata, seed=0)) == {0, 9}


@pytest.mark.parametrize("task", [HEAD, VIEW, LENGTH, CLEAN], ids=lambda task: task["kind"])
def test_a_batch_is_a_function_of_the_step_and_workers_share_it(shards: Path, task: dict) -> None:
    config = config_of(shards, task, rotate90=0.5, flip_vertical=0.5)
    whole = views_of(config)[0].batch(2)
    assert equal(whole, views_of(config)[0].batch(2))
    assert not equal(whole, views_of(config)[0].batch(3))
    parts = []
    for rank in (0, 1):
        context = PlainContext(torch.device("cpu"))
        context.rank, context.world_size = rank, 2
        sets = load_task(config.shards, config.task)
        parts.append(ImageViews(config, sets, np.arange(len(sets["train"])), PX, context).batch(2))
    assert [name for pair in zip(parts[0].ids, parts[1].ids, strict=True) for name in pair] == whole.ids
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part.inputs, whole.inputs[rank::2])
        torch.testing.assert_close(part.target, whole.target[rank::2])


def test_masks_turn_with_their_images(shards: Path) -> None:
    batch = views_of(config_of(shards, HEAD, rotate90=1.0, flip_vertical=0.5))[0].batch(0)
    plain = views_of(config_of(shards, HEAD))[0].batch(0)
    for image, mask, before in zip(batch.inputs, batch.target, plain.inputs, strict=True):
        assert image[0][mask == 1].mean() > image[0][mask == 0].mean() + 0.2
        ways = [torch.rot90(f, k, (1, 2)) for k in range(4) for f in (before, before.flip(2))]
        same = [torch.allclose(way, image, atol=1e-4) for way in ways]
        assert any(same), "a view is the plain view, mirrored or turned"
        assert not same[0]
    images = torch.arange(8.0).reshape(2, 1, 2, 2)
    assert torch.equal(turned(images, torch.tensor([0, 1])), torch.stack([images[0], images[1].rot90(1, (1, 2))]))


def test_degraded_views_keep_their_targets_and_every_image_is_worse_in_its_own_way(shards: Path) -> None:
    worse = {"chance": 1.0, "blur": [0, 0], "speckle": [0, 0], "shadow": [0, 0], "gain": [6.0, 12.0]}
    config = config_of(shards, HEAD, degrade_views=worse | {"resolution": [1, 1]})
    first, before = views_of(config)[0].batch(0), views_of(config_of(shards, HEAD))[0].batch(0)
    assert torch.equal(first.target, before.target)
    assert first.ids == before.ids
    shift = (first.inputs - before.inputs).abs().mean(dim=(1, 2, 3))
    assert (shift > 0.01).all(), "every image is changed"
    assert len({round(float(s), 5) for s in shift}) == len(shift)
    assert equal(first, views_of(config)[0].batch(0))


def test_scores_are_made_as_whole_images_will_be_shown(shards: Path) -> None:
    shown = []

    def model(windows: torch.Tensor) -> torch.Tensor:
        shown.append(len(windows))
        return torch.cat([0.5 - windows, windows - 0.5], dim=1)

    network = torch.nn.Module()
    network.forward = model
    for overlap in (0.0, 0.5):
        views, _ = views_of(config_of(shards, HEAD, inference={"mode": "sliding", "overlap": overlap}))
        views.score(network, "val", full=False)
    first, second = shown[: len(shown) // 2], shown[len(shown) // 2 :]
    assert sum(second) > sum(first) > 0


def test_whole_views_are_not_changed(shards: Path) -> None:
    views, train = views_of(config_of(shards, VIEW, views="whole"))
    first, later = views.batch(0), views.batch(9)
    again = dict(zip(later.ids, later.inputs, strict=True))
    both = [n for n, name in enumerate(first.ids) if name in again]
    assert both
    assert all(torch.equal(first.inputs[n], again[first.ids[n]]) for n in both)
    assert first.target.tolist() == [int(train.label[train.ids.index(name)]) for name in first.ids]


def test_a_length_is_a_share_of_its_view(shards: Path) -> None:
    config = config_of(shards, LENGTH, crop={"min_area": 0.25, "max_area": 0.25, "max_ratio": 1.0})
    views, train = views_of(config)
    batch = views.batch(0)
    for name, target in zip(batch.ids, batch.target, strict=True):
        n = train.ids.index(name)
        side_mm = 0.5 * np.sqrt(0.25 * train.height[n] * train.width[n])
        assert float(target) == pytest.approx(train.target[n, 0] / side_mm, rel=1e-5)
    mean, std = target_spread(train, np.arange(6), config)
    shares = train.target[:, 0] / (0.5 * np.sqrt(train.height * train.width))
    assert (mean, std) == (pytest.approx(shares.mean()), pytest.approx(shares.std()))


def test_enhancement_learns_from_degraded_views_of_clean_images(shards: Path) -> None:
    config = config_of(shards, CLEAN)
    batch = views_of(config)[0].batch(1)
    expected = degrade(batch.target, torch.arange(6, 12), config.task.degrade, config.seed)
    assert torch.equal(batch.inputs, expected)
    assert batch.target.shape == (6, 1, PX, PX)
    assert not torch.equal(batch.inputs, batch.target)


def test_losses_by_hand() -> None:
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), torch.tensor([0, 1, 0])
    plain = F.cross_entropy(logits, target, reduction="none")
    weight = torch.tensor([3.0, 1.0])
    expected = (3 * plain[0] + plain[1] + 3 * plain[2]) / 7
    torch.testing.assert_close(classification_loss(logits, target, 0.0, weight), expected)
    on = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    p = logits.sigmoid()
    by_hand = -(on * p.log() * torch.tensor([4.0, 1.0]) + (1 - on) * (1 - p).log()).mean()
    torch.testing.assert_close(multilabel_loss(logits, on, torch.tensor([4.0, 1.0])), by_hand)
    errors = regression_loss(torch.tensor([[11.0], [30.0]]), torch.tensor([[10.0], [10.0]]), deviation=4.0)
    assert float(errors) == pytest.approx((0.5 * 0.25**2 + (5 - 0.5)) / 2)


def test_the_loss_of_a_restored_image() -> None:
    clean = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    assert float(restoration_loss(clean, clean, RestorationConfig(frequency=1.0))) == pytest.approx(0, abs=1e-6)
    only = RestorationConfig(structure=0.0)
    assert float(restoration_loss(clean + 0.1, clean, only)) == pytest.approx(0.1, abs=1e-6)
    noisy = (clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    loss = restoration_loss(noisy, clean, RestorationConfig())
    assert loss.item() > restoration_loss(noisy.detach(), clean, only).item()
    loss.backward()
    assert noisy.grad is not None
    assert noisy.grad.abs().sum() > 0


def test_classes_are_weighed_by_how_rare_they_are(shards: Path) -> None:
    config = config_of(shards, VIEW, balance="class_weights", label_smoothing=0.0)
    train = load_task(config.shards, config.task)["train"]  # 4 bright, 5 dark
    weights = class_weights(train, np.arange(9), config)
    assert weights.tolist() == pytest.approx([9 / 8, 9 / 10])
    assert class_weights(train, np.array([1, 3]), config).tolist() == [0.5, 0.0]
    loss = TaskLoss(config, train, np.arange(9), torch.device("cpu"))
    answer, target = torch.zeros(9, 2), torch.from_numpy(train.label)
    answer[:, 0] = 1.0
    each = F.cross_entropy(answer, target, reduction="none")
    expected = sum(each[target == k].mean() for k in (0, 1)) / 2  # both classes count the same
    torch.testing.assert_close(loss(answer, target), expected)
    several = {"name": "several", "kind": "multilabel", "organs": ["heart"], "classes": {"x": ["a"], "y": ["b"]}}
    config = config_of(shards, several, balance="class_weights")
    train = load_task(config.shards, config.task)["train"]
    assert class_weights(train, np.arange(9), config).tolist() == pytest.approx([5 / 4, 4 / 5])


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (HEAD, {"balance": "class_weights"}, "balance=class_weights is for classes of images"),
        (VIEW, {"network": "resnet18", "freeze_encoder": True}, "network=resnet18 has no encoder of ours"),
        (VIEW, {"network": "resnet18", "init": "runs/x"}, "init has to be scratch"),
        (HEAD, {"views": "whole", "rotate90": 0.5}, "with views=whole nothing is turned"),
        (CLEAN, {"degrade_views": {}}, "degrade_views is not for enhancement"),
    ],
)
def test_settings_that_do_not_fit_are_refused(task: dict, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(Path("x"), task, **values)


def test_the_side_of_the_input_comes_from_one_place() -> None:
    encoder = {"size": "tiny", "img_px": 64}
    assert config_of(Path("x"), VIEW, encoder=encoder).resolved_px() == 64
    resized = config_of(Path("x"), VIEW, encoder=encoder, img_px=96)
    assert (resized.resolved_px(), resized.resolved_encoder().img_px) == (96, 96)
    assert config_of(Path("x"), VIEW, network="resnet18", encoder=encoder).resolved_px() == 64
    with pytest.raises(ConfigError, match="network=resnet18 needs the side of its input"):
        config_of(Path("x"), VIEW, network="resnet18").resolved_px()
    with pytest.raises(ConfigError, match="is not a multiple of patch_px"):
        config_of(Path("x"), VIEW, encoder=encoder, img_px=100).resolved_encoder()
