"""Baselines stand where a task model stands: same call, same bundle, same optimizer."""

import pytest
import torch

from usfm.errors import ConfigError, EnvironmentProblem
from usfm.kinds import TaskKind
from usfm.models import baselines
from usfm.models.baselines import BASELINES, BaselineModel, BaselineName
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.table import HEADS, HeadConfig
from usfm.models.task_model import TaskModel, build_model
from usfm.train.optim import OptimConfig, make_optimizer

PAIRS = [("resnet18", kind) for kind in BASELINES["resnet18"]] + [("unet", kind) for kind in BASELINES["unet"]]
NANO = EncoderConfig(size="nano", img_px=32, patch_px=8, drop_path=0.0)


def build(network: BaselineName, kind: TaskKind, outputs: int = 1, img_px: int = 64) -> BaselineModel:
    torch.manual_seed(0)
    return BaselineModel(network, kind, outputs, img_px)


def grey(n: int, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("network", "kind"), PAIRS)
def test_shapes_and_gradients_with_a_batch_of_one(network: BaselineName, kind: TaskKind) -> None:
    outputs = 1 if kind in ("regression", "enhancement") else 3
    side = 50 if network == "unet" else 64  # no multiple of 16
    model = build(network, kind, outputs, side).train()
    answer, aux = model(grey(1, side), auxiliary=True)
    assert answer.shape == (1, outputs, side, side) if network == "unet" else (1, outputs)
    assert (aux, float(model.auxiliary_loss(aux, torch.zeros(1)))) == ([], 0.0)
    answer.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.inference_mode():
        images = grey(2, side)
        assert torch.allclose(model(images)[:1], model(images[:1]), atol=1e-4)


def test_input_is_normalised_inside_and_answers_are_in_the_targets_unit() -> None:
    model = build("resnet18", "regression").eval()
    images = grey(2)
    with torch.inference_mode():
        plain = model(images)
        assert torch.equal(plain, model.body((images - 0.449) / 0.226))
        model.fit_targets(mean=55.0, std=12.0)
        assert torch.allclose(model(images), plain * 12 + 55)
    with pytest.raises(TypeError, match="a segmentation network predicts no values"):
        build("unet", "segmentation").fit_targets(0.0, 1.0)


def test_a_unet_enhances_by_a_residual_and_clamps_only_outside_training() -> None:
    model = build("unet", "enhancement").train()
    for parameter in model.body.final_conv.parameters():
        torch.nn.init.zeros_(parameter)
    images = grey(1)
    assert torch.equal(model(images), images)
    torch.nn.init.constant_(model.body.final_conv.bias, 0.5)
    assert torch.allclose(model(images), images + 0.5)
    assert torch.allclose(model.eval()(images), (images + 0.5).clamp(0, 1))


def test_layer_decay_leaves_baselines_and_every_head_at_the_full_rate() -> None:
    torch.manual_seed(0)
    for network, kind in PAIRS:
        model = build(network, kind)
        groups = make_optimizer(model, OptimConfig(), layer_decay=0.65).param_groups
        assert {group["lr_scale"] for group in groups} == {1.0}
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    for kind, names in HEADS.items():
        for name in names:
            task = TaskModel(NANO, kind, 1, HeadConfig(name=name))
            groups = make_optimizer(task, OptimConfig(weight_decay=0.05), layer_decay=0.65).param_groups
            scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
            decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
            assert {scale[id(p)] for p in task.head.parameters()} == {1.0}
            # 6 blocks; the embedding, before them, is one further away
            assert scale[id(task.encoder.beit.blocks[0].mlp.fc1.weight)] == pytest.approx(0.65**6)
            assert scale[id(task.encoder.beit.patch_embed.proj.weight)] == pytest.approx(0.65**7)
            for key, parameter in task.head.named_parameters():
                free = parameter.ndim <= 1 or key.endswith("query")
                assert decay[id(parameter)] == (0.0 if free else 0.05)


def test_the_table_of_networks_says_which_fits() -> None:
    with pytest.raises(ConfigError, match="unet does not fit a classification task; expected usfm or resnet50"):
        build_model("unet", None, "classification", 2, img_px=64)
    with pytest.raises(ConfigError, match="resnet18 does not fit a segmentation task; expected usfm or unet"):
        build_model("resnet18", None, "segmentation", 2, img_px=64)
    with pytest.raises(ConfigError, match="vgg is not known; expected one of usfm, resnet50, resnet18, unet"):
        build_model("vgg", None, "classification", 2, img_px=64)
    with pytest.raises(ConfigError, match="needs the side of its input"):
        build_model("unet", None, "segmentation", 2)
    with pytest.raises(ConfigError, match="at least 32 px, got img_px=16"):
        build_model("unet", None, "segmentation", 2, img_px=16)
    with pytest.raises(ConfigError, match="needs the shape of its encoder"):
        build_model("usfm", None, "segmentation", 2, img_px=64)
    with pytest.raises(ConfigError, match="but the encoder takes 32 px"):
        build_model("usfm", NANO, "segmentation", 2, img_px=64)
    assert build_model("unet", NANO, "segmentation", 2).img_px == 32
    assert isinstance(build_model("usfm", NANO, "multilabel", 2), TaskModel)


def test_imagenet_weights_are_asked_of_timm_or_missed_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def no_network(name: str, **values: object) -> torch.nn.Module:
        asked[name] = values
        raise OSError("no connection")

    monkeypatch.setattr(baselines, "create_model", no_network)
    with pytest.raises(EnvironmentProblem, match=r"weights of resnet50 cannot be had \(no connection\); set pretr"):
        BaselineModel("resnet50", "classification", 4, 64, pretrained=True)
    assert asked == {"resnet50": {"pretrained": True, "in_chans": 1, "num_classes": 4}}
    with pytest.raises(ConfigError, match="network=unet has no pre-trained weights"):
        BaselineModel("unet", "segmentation", 2, 64, pretrained=True)
    with pytest.raises(ConfigError, match="pretrained=true is for baselines"):
        build_model("usfm", NANO, "classification", 2, pretrained=True)
