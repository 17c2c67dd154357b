"""The objective table: what each asks for, and the averaged teacher."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from usfm.errors import ConfigError
from usfm.models.encoder import EncoderConfig
from usfm.models.objective import ObjectiveConfig
from usfm.models.objectives import OBJECTIVES
from usfm.models.pixel_objective import PixelObjective
from usfm.models.teacher_objective import TeacherObjective, teacher_momentum

ENCODER = EncoderConfig(size="nano", img_px=48, patch_px=8, drop_path=0.2)
UNIT = {"unit_px": 8}


def images(n: int = 4) -> torch.Tensor:
    return torch.rand(n, 1, 48, 48, generator=torch.Generator().manual_seed(3))


def objective(**values) -> ObjectiveConfig:
    return ObjectiveConfig.build({"spatial_mask": UNIT} | values)


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_every_objective_has_its_terms_a_loss_per_sample_and_gradients_everywhere(kind: str) -> None:
    torch.manual_seed(0)
    model = OBJECTIVES[kind](ENCODER, objective(kind=kind), 0)
    out = model(images(), torch.arange(4))
    assert tuple(out.terms) == model.term_names
    assert out.per_sample.shape == (4,)
    assert (out.per_sample > 0).all()
    out.loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert (out.reconstruction is None) == (kind == "teacher")


def test_spatial_only_and_frequency_only_leave_the_other_mask_out() -> None:
    x, index = images(), torch.arange(4)
    torch.manual_seed(0)
    spatial = PixelObjective(ENCODER, objective(frequency_mask={"ratio": 0}, frequency_weight=0), 0).eval()
    out = spatial(x, index)
    assert torch.equal(out.corrupted.stopped, x)
    assert out.corrupted.tokens.any()
    assert torch.equal(out.loss, out.terms["spatial"])
    frequency = PixelObjective(
        ENCODER, objective(spatial_mask={**UNIT, "ratio": 0}, spatial_weight=0, frequency_weight=1), 0
    ).eval()
    out = frequency(x, index)
    assert torch.equal(out.corrupted.images, out.corrupted.stopped)
    assert not out.corrupted.tokens.any()
    assert not torch.equal(out.corrupted.images, x)
    assert torch.equal(out.loss, out.terms["frequency"])
    error = (out.reconstruction - x).abs().mean(dim=(1, 2, 3)) / ENCODER.std
    assert torch.allclose(out.per_sample, error, atol=1e-5)  # of all pixels, for none is hidden


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"spatial_mask": {"ratio": 0}, "frequency_mask": {"ratio": 0}}, "both masks are off"),
        ({"spatial_weight": 0, "frequency_weight": 0}, "no loss is left"),
        ({"spatial_mask": {"ratio": 0}, "frequency_weight": 0}, "no loss is left"),
        ({"frequency_mask": {"ratio": 0}, "support": "removed_bands"}, "removed_bands needs"),
    ],
)
def test_an_objective_that_asks_nothing_is_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ObjectiveConfig.build(values)


def test_momentum_follows_the_samples_not_the_steps() -> None:
    whole = teacher_momentum(0.99, 64, 0, 64, 6400)
    halves = teacher_momentum(0.99, 64, 0, 32, 6400) ** 2
    assert whole == pytest.approx(0.99)
    assert halves == pytest.approx(whole)
    assert teacher_momentum(0.99, 64, 3200, 64, 6400) == pytest.approx(0.995)
    assert teacher_momentum(0.99, 64, 6400, 64, 6400) == 1.0


def test_the_teacher_is_the_average_of_the_students_and_takes_no_gradient() -> None:
    torch.manual_seed(0)
    model = TeacherObjective(ENCODER, objective(kind="teacher", teacher={"momentum": 0.9, "base_batch": 4}), 0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    name = "beit.blocks.3.attn.qkv.weight"
    average = model.encoder.get_parameter(name).detach().double().clone()
    for step in range(3):
        model(images(), torch.arange(4)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step(4 * (step + 1), 4, 40)
        keep = 0.9 + 0.1 * (step + 1) / 10
        average = keep * average + (1 - keep) * model.encoder.get_parameter(name).detach().double()
    teacher = model.teacher.get_parameter(name)
    assert torch.allclose(teacher.double(), average, atol=1e-6)
    assert not torch.allclose(teacher, model.encoder.get_parameter(name), atol=1e-6)
    assert all(not p.requires_grad and p.grad is None for p in model.teacher.parameters())


def test_targets_are_the_normalised_mean_of_the_last_blocks_of_the_clean_image() -> None:
    torch.manual_seed(0)
    model = TeacherObjective(ENCODER, objective(kind="teacher", teacher={"blocks": 2}), 0).train()
    x = images()
    taken, _ = model.teacher.intermediates(x, [5, 6])
    by_hand = np.mean(
        [
            (t - t.mean(2, keepdims=True)) / np.sqrt(t.var(2, keepdims=True) + 1e-5)
            for t in (layer[:, 1:].detach().numpy() for layer in taken)
        ],
        axis=0,
    )
    assert np.allclose(model.targets(x).numpy(), by_hand, atol=1e-4)
    assert torch.equal(model.targets(x), model.targets(x))  # no drop-path in the teacher, though the student trains
    out = model.eval()(x, torch.arange(4))
    hidden = out.corrupted.tokens.flatten(1)
    predicted = model.predictor(model.encoder(out.corrupted.images, out.corrupted.tokens)[:, 1:])
    expected = F.smooth_l1_loss(predicted[hidden], model.targets(x)[hidden])
    assert torch.allclose(out.loss, expected, atol=1e-6)


def test_more_averaged_blocks_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="the encoder has 6"):
        TeacherObjective(ENCODER, objective(kind="teacher", teacher={"blocks": 7}), 0)
