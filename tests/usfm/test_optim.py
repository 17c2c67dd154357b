import math

import pytest
import torch

from usfm.errors import ConfigError
from usfm.models.encoder import EncoderConfig
from usfm.models.task_model import TaskModel
from usfm.train.optim import OptimConfig, learning_rate, make_optimizer, set_learning_rate


def test_schedule_equals_its_closed_form() -> None:
    config = OptimConfig(lr=1e-3, base_batch=512, warmup=0.1, final_lr_ratio=0.01)
    total, batch, peak = 10_000, 100, 1e-3 * 100 / 512
    for seen in range(0, total, batch):
        if seen < 1000:
            expected = peak * (seen + batch) / (1000 + batch)
        else:
            expected = peak * (0.01 + 0.99 * (1 + math.cos(math.pi * (seen - 1000) / 9000)) / 2)
        assert learning_rate(config, batch, seen, total) == pytest.approx(expected, rel=1e-12)


def test_step_schedule_drops_where_it_is_told_to() -> None:
    config = OptimConfig(lr=1e-3, base_batch=100, warmup=0.1, schedule="step", step_at=(0.5, 0.8), step_factor=0.2)
    rates = [learning_rate(config, 100, seen, 10_000) for seen in range(0, 10_000, 100)]
    assert rates[:10] == pytest.approx([1e-3 * (k + 1) / 11 for k in range(10)])
    assert rates[10:] == pytest.approx([1e-3] * 40 + [2e-4] * 30 + [4e-5] * 20)


@pytest.mark.parametrize("step_at", [[], [0.8, 0.5], [0.05], [1.0]])
def test_steps_that_make_no_sense_are_refused(step_at: list[float]) -> None:
    with pytest.raises(ConfigError, match="give rising shares of the run, after the warm-up"):
        OptimConfig.build({"schedule": "step", "step_at": step_at})


def test_fused_updates_equal_those_of_the_definition() -> None:
    """Ten AdamW steps by hand, decoupled decay and bias correction, in float64."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=False)
    config = OptimConfig(lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 0.01)
    w, m, v = model.weight.detach().double().clone(), torch.zeros(2, 3).double(), torch.zeros(2, 3).double()
    for step in range(1, 11):
        gradient = torch.randn(2, 3)
        model.weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w * (1 - 0.01 * 0.1) - 0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    assert torch.allclose(model.weight.detach().double(), w, atol=1e-6)


def test_layer_decay_and_weight_decay_reach_the_right_parameters() -> None:
    model = TaskModel(EncoderConfig(size="tiny", img_px=32), "classification", 2)
    optimizer = make_optimizer(model, OptimConfig(lr=1.0, weight_decay=0.05), layer_decay=0.5)
    set_learning_rate(optimizer, 1.0)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    named = {name: found[id(p)] for name, p in model.named_parameters()}
    assert len(named) == len(list(model.parameters()))
    assert named["head.linear.weight"] == (1.0, 0.05)
    assert named["head.linear.bias"] == (1.0, 0.0)
    assert named["encoder.beit.norm.weight"] == (1.0, 0.0)
    assert named["encoder.beit.blocks.11.mlp.fc1.weight"] == (0.5, 0.05)
    assert named["encoder.beit.blocks.0.attn.qkv.weight"] == (0.5**12, 0.05)
    assert named["encoder.beit.blocks.0.gamma_1"] == (0.5**12, 0.0)
    for name in ("cls_token", "patch_embed.proj.bias"):
        assert named[f"encoder.beit.{name}"] == (0.5**13, 0.0)
    assert named["encoder.beit.rel_pos_bias.relative_position_bias_table"] == (1.0, 0.0)  # as in BEiT's own code
    assert named["encoder.beit.patch_embed.proj.weight"] == (0.5**13, 0.05)


def test_frozen_parameters_are_left_out() -> None:
    model = TaskModel(EncoderConfig(size="tiny", img_px=32), "classification", 2)
    model.encoder.requires_grad_(False)
    optimizer = make_optimizer(model, OptimConfig())
    count = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
    assert count == sum(p.numel() for p in model.head.parameters())
    assert isinstance(optimizer, torch.optim.AdamW)


def test_absolute_positions_are_of_the_embedding() -> None:
    model = TaskModel(EncoderConfig(size="tiny", img_px=32, positions="absolute"), "classification", 2)
    optimizer = make_optimizer(model, OptimConfig(), layer_decay=0.5)
    position = model.encoder.beit.pos_embed
    (group,) = [g for g in optimizer.param_groups if any(p is position for p in g["params"])]
    assert (group["weight_decay"], group["lr_scale"]) == (0.0, 0.5**13)
