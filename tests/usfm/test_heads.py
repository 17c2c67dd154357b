"""Every head: shapes, gradients, batches of one, and what each promises of itself."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from torch import nn

from usfm.errors import ConfigError, DataError
from usfm.kinds import TASK_KINDS, TaskKind, output_count
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.head import patch_map, tapped_blocks
from usfm.models.heads.mask_query import MaskQueryHead
from usfm.models.heads.restoration import RestorationHead
from usfm.models.heads.table import HEADS, HeadConfig
from usfm.models.heads.upernet import UPerNetHead
from usfm.models.task_model import TaskModel

ALL = [(kind, name) for kind in TASK_KINDS for name in HEADS[kind]]
# a grid of 7, of 3, and of 1 patch per side
SHAPES = [(56, 8), (48, 16), (16, 16)]


def encoder(img_px: int = 64, patch_px: int = 8, **values: object) -> EncoderConfig:
    return EncoderConfig(size="nano", img_px=img_px, patch_px=patch_px, drop_path=0.0, **values)


def build(kind: TaskKind, name: str | None = None, outputs: int | None = None, **values: object) -> TaskModel:
    torch.manual_seed(0)
    count = outputs or (1 if kind in ("regression", "enhancement") else 3)
    return TaskModel(encoder(**values), kind, count, HeadConfig(name=name))


def grey(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def target_of(kind: TaskKind, n: int, side: int) -> torch.Tensor:
    if kind == "segmentation":
        return torch.arange(side * side).reshape(1, side, side).expand(n, -1, -1) % 3
    return torch.zeros(n)


@pytest.mark.parametrize(("kind", "name"), ALL)
@pytest.mark.parametrize(("side", "patch"), SHAPES)
def test_shapes_and_gradients_at_odd_sizes_with_a_batch_of_one(
    kind: TaskKind, name: str, side: int, patch: int
) -> None:
    model = build(kind, name, img_px=side, patch_px=patch).train()
    outputs = {"segmentation": (3, side, side), "enhancement": (1, side, side), "regression": (1,)}.get(kind, (3,))
    answer, aux = model(grey(1, side), auxiliary=True)
    assert answer.shape == (1, *outputs)
    # DistributedDataParallel waits for every parameter
    (answer.square().mean() + model.auxiliary_loss(aux, target_of(kind, 1, side))).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    model.eval()
    images = grey(2, side)
    with torch.inference_mode():
        alone, together = model(images[1:]), model(images)
        assert torch.equal(model(images), model.from_features(*model.features(images), images))
        assert torch.allclose(model(images, auxiliary=True)[0], together, atol=1e-6)
    assert together.shape == (2, *outputs)
    assert torch.allclose(together[1:], alone, atol=1e-5)  # an image's answer is its own


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_few_steps_bring_the_loss_down(kind: TaskKind, name: str) -> None:
    """On two images whose answers differ."""
    model = build(kind, name, img_px=32).eval()  # no dropout
    images = torch.stack([torch.full((1, 32, 32), 0.2), torch.full((1, 32, 32), 0.8)])
    images[:, :, :, 16:] += 0.1
    halves = (torch.arange(32) >= 16).long().expand(2, 32, -1)
    wanted = torch.tensor([0, 2])

    with torch.no_grad():
        features = model.features(images)

    def loss() -> torch.Tensor:
        answer, aux = model.from_features(*features, images, auxiliary=True)
        if kind == "segmentation":
            task = F.cross_entropy(answer, halves)
        elif kind == "regression":
            task = F.mse_loss(answer[:, 0], torch.tensor([-1.0, 1.0]))
        elif kind == "enhancement":
            task = F.mse_loss(answer, 1 - images)
        elif kind == "multilabel":
            task = F.binary_cross_entropy_with_logits(answer, F.one_hot(wanted, 3).float())
        else:
            task = F.cross_entropy(answer, wanted)
        return task + model.auxiliary_loss(aux, halves)

    optimizer = torch.optim.AdamW(model.head.parameters(), lr=3e-3)
    first = loss().item()
    for _ in range(15):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.7 * first


def test_dense_heads_take_the_papers_blocks() -> None:
    assert tapped_blocks(EncoderConfig(size="base")) == [4, 6, 8]  # and 12, after the final norm
    assert tapped_blocks(EncoderConfig(size="nano")) == [2, 3, 4]
    assert tapped_blocks(EncoderConfig(size="large")) == [8, 12, 16]


def test_the_map_of_patches_is_in_row_order_without_cls() -> None:
    tokens = torch.arange(10.0).reshape(1, 10, 1)
    assert patch_map(tokens)[0, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_the_attentive_query_looks_where_its_key_is() -> None:
    """With one token that alone answers the query, the pooled vector is that token's value."""
    head = build("classification", "attentive").head
    width = 96
    with torch.no_grad():
        head.attention.in_proj_weight.copy_(torch.cat([torch.eye(width)] * 3))
        head.attention.in_proj_bias.zero_()
        head.attention.out_proj.weight.copy_(torch.eye(width))
        head.attention.out_proj.bias.zero_()
        head.query.fill_(10.0)
    tokens = torch.randn(1, 65, width, generator=torch.Generator().manual_seed(1)) * 0.1
    tokens[0, 40] = 5 + torch.arange(width) / 10
    pooled = head.norm(tokens[:, 40])
    assert torch.allclose(head([], tokens, grey(1, 64)), head.linear(pooled), atol=1e-4)


def test_regression_answers_in_the_targets_unit() -> None:
    model = build("regression", "linear").eval()
    images = grey(3, 64)
    with torch.inference_mode():
        plain = model(images)
        model.fit_targets(mean=172.5, std=31.0)
        assert torch.allclose(model(images), plain * 31 + 172.5, rtol=1e-6)
    with pytest.raises(DataError, match="expected finite numbers that differ"):
        model.fit_targets(mean=44.3, std=0.0)
    with pytest.raises(TypeError, match="LinearHead predicts no values"):
        build("classification").fit_targets(0.0, 1.0)


def test_restoration_starts_as_the_identity_and_clamps_only_outside_training() -> None:
    model = build("enhancement")
    images = grey(2, 64)
    assert torch.equal(model.train()(images), images)
    nn.init.constant_(model.head.out.bias, 0.5)
    assert model(images).max() > 1
    assert torch.allclose(model.eval()(images), (images + 0.5).clamp(0, 1))


def test_restoration_sees_both_the_tokens_and_the_pixels() -> None:
    head = RestorationHead(encoder(), 1)
    nn.init.normal_(head.out.weight)
    images = grey(1, 64).requires_grad_()
    taken = [torch.randn(1, 65, 96, requires_grad=True) for _ in range(4)]
    head(taken[:3], taken[3], images).sum().backward()
    assert all(tokens.grad[:, 1:].abs().amax(dim=(0, 2)).min() > 0 for tokens in taken)
    # beyond the plus one of the skip
    assert (images.grad - 1).abs().min() > 0


def test_upernets_pyramid_equals_a_case_by_hand() -> None:
    """Layers set to sums over channels: each level's logits then are bilinear sums that numpy can repeat."""
    head = UPerNetHead(encoder(img_px=32), 2).eval()  # a grid of 4
    for module in head.modules():
        if isinstance(module, nn.ConvTranspose2d):  # each channel is copied to its 2 x 2 cells
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight.copy_(torch.eye(96)[:, :, None, None].expand(-1, -1, 2, 2))
        if isinstance(module, nn.Conv2d):  # the mean over channels, no neighbours
            nn.init.zeros_(module.weight)
            with torch.no_grad():
                middle = module.kernel_size[0] // 2
                module.weight[:, :, middle, middle] = 1 / module.in_channels
    head.pyramid[0][1] = nn.Identity()  # norm
    head.pyramid[0][2] = nn.Identity()  # GELU
    for module in list(head.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.GroupNorm):
            module[1] = nn.Identity()
    nn.init.zeros_(head.classify[1].bias)
    maps = [torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    tokens = [torch.cat([torch.zeros(1, 1, 96), m.flatten(2).transpose(1, 2).expand(-1, -1, 96)], 1) for m in maps]
    images = grey(1, 32)

    def up(x: torch.Tensor, side: int) -> torch.Tensor:
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False)

    top = maps[3].reshape(1, 1, 2, 2, 2, 2).amax(dim=(3, 5))  # 2 x 2 maxima
    pooled = [up(F.adaptive_avg_pool2d(top, bins), 2) for bins in (1, 2, 3, 6)]
    context = (top + sum(pooled)) / 5  # 96 channels each
    level2 = maps[2] + up(context, 4)
    level1 = maps[1].repeat_interleave(2, 2).repeat_interleave(2, 3) + up(level2, 8)
    level0 = maps[0].repeat_interleave(4, 2).repeat_interleave(4, 3) + up(level1, 16)
    fused = (up(context, 16) + up(level2, 16) + up(level1, 16) + level0) / 4
    with torch.inference_mode():
        logits = head(tokens[:3], tokens[3], images)
    assert torch.allclose(logits, up(fused, 32).expand(-1, 2, -1, -1), atol=1e-5)


def test_upernets_auxiliary_loss_is_four_tenths_of_a_cross_entropy() -> None:
    model = build("segmentation", "upernet").eval()
    target = target_of("segmentation", 2, 64)
    _, (logits,) = model(grey(2, 64), auxiliary=True)
    assert logits.shape == (2, 3, 64, 64)
    rows = logits.detach().double().movedim(1, -1).reshape(-1, 3).softmax(-1)
    expected = 0.4 * log_loss(target.flatten(), rows.numpy())
    assert model.auxiliary_loss([logits], target).item() == pytest.approx(expected, rel=1e-5)


def test_a_mask_querys_mask_is_its_attention_map() -> None:
    """Stage by stage: mean over heads of q k / sqrt(d), added up; scores x masks are the classes' shares."""
    model = build("segmentation", "mask_query").eval()
    head = model.head
    assert isinstance(head, MaskQueryHead)
    images = grey(2, 64)
    with torch.inference_mode():
        taken, normed = model.features(images)
        scores, masks = head.masks(taken, normed)
        stage = head.stages[0]
        tokens = stage.norm_tokens(normed)[:, 1:]
        q = stage.to_query(stage.norm_query(head.query))[0].double()  # (3, 96), 3 heads of 32
        k = stage.to_key(tokens)[1].double()  # (64, 96)
        by_hand = sum(q[:, h : h + 32] @ k[:, h : h + 32].T / 32**0.5 for h in (0, 32, 64)) / 3
        assert torch.allclose(masks[0][1].flatten(1).double(), by_hand, atol=1e-5)
        later = head.stages[1](stage(head.query.expand(2, -1, -1), normed)[0], taken[1])[1]
        assert torch.allclose(masks[1], masks[0] + later, atol=1e-5)

        large = F.interpolate(masks[-1], (64, 64), mode="bilinear", align_corners=False)
        shares = scores.sigmoid()[..., None, None] * large.sigmoid()
        assert torch.allclose(model(images).softmax(1), shares / shares.sum(1, keepdim=True), atol=1e-5)


def test_a_mask_querys_auxiliary_loss_knows_which_classes_are_there() -> None:
    model = build("segmentation", "mask_query")
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, :10] = 2
    good, bad = torch.tensor([[9.0, -9.0, 9.0]]), torch.tensor([[9.0, 9.0, -9.0]])
    even = [torch.zeros(1, 3, 8, 8)] * 2
    right, wrong = (model.auxiliary_loss([scores, *even], target) for scores in (good, bad))
    # 0.4 x two of three wrong by 9, in the presence alone; the stages' logits shift with the scores too
    assert wrong - right > 0.4 * 2 * 9 / 3


def test_a_head_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="is no head for classification; expected linear or attentive"):
        build("classification", "upernet")


@pytest.mark.parametrize(
    ("kind", "classes", "count"),
    [("classification", ["a", "b"], 2), ("multilabel", ["a"], 1), ("segmentation", ["bg", "a"], 2),
     ("regression", [], 1), ("enhancement", [], 1)],
)  # fmt: skip
def test_outputs_of_a_kind(kind: TaskKind, classes: list[str], count: int) -> None:
    assert output_count(kind, classes) == count
    with pytest.raises(ConfigError, match="has no classes" if count == 1 and not classes else "needs its classes"):
        output_count(kind, [] if classes else ["a"])
