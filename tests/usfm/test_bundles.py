"""A bundle of each kind and network comes back as it went; bundles from before there was a choice still load."""

import json
from pathlib import Path

import pytest
import torch

from usfm.errors import CheckpointError, ConfigError
from usfm.kinds import TASK_KINDS, TaskKind, output_count
from usfm.models.baselines import BASELINES
from usfm.models.bundle import BundleSpec, load_bundle, read_bundle_spec, save_bundle
from usfm.models.encoder import EncoderConfig
from usfm.models.heads.table import HEADS, HeadConfig
from usfm.models.task_model import build_model
from usfm.train.initial_weights import encoder_config_of

NANO = EncoderConfig(size="nano", img_px=32, patch_px=8, drop_path=0.0)
CLASSES = {"classification": ["a", "b"], "multilabel": ["a", "b", "c"], "segmentation": ["background", "a"]}
OURS = [("usfm", kind, name) for kind in TASK_KINDS for name in HEADS[kind]]
THEIRS = [(network, kind, "") for network in ("resnet18", "unet") for kind in BASELINES[network]]


@pytest.mark.parametrize(("network", "kind", "head"), [*OURS, *THEIRS])
def test_every_network_of_every_kind_comes_back(tmp_path: Path, network: str, kind: TaskKind, head: str) -> None:
    torch.manual_seed(0)
    classes = CLASSES.get(kind, [])
    encoder = NANO if network == "usfm" else None
    choice = HeadConfig(name=head or None)
    model = build_model(network, encoder, kind, output_count(kind, classes), choice, img_px=32).eval()
    if kind == "regression":
        model.fit_targets(mean=170.0, std=30.0)
    spec = BundleSpec(
        kind=kind, name="t", classes=classes, encoder=encoder, network=network, head=head, img_px=32, unit="mm"
    )  # fmt: skip
    save_bundle(tmp_path, model, spec)
    loaded, read = load_bundle(tmp_path)
    assert read.model_copy(update={"version": ""}) == spec
    assert loaded.img_px == read.img_px == 32
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_bundle_from_before_there_was_a_choice_still_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("usfm", NANO, "segmentation", 2).eval()
    save_bundle(tmp_path, model, BundleSpec(kind="segmentation", name="t", classes=["bg", "a"], encoder=NANO))
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    for key in ("network", "head", "img_px", "unit", "target", "scales_with_size"):
        del document[key]
    path.write_text(json.dumps(document))
    loaded, read = load_bundle(tmp_path)
    assert (read.network, read.head, read.img_px, read.unit) == ("usfm", "light", 32, "")
    images = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_a_baseline_has_no_encoder_to_start_from(tmp_path: Path) -> None:
    model = build_model("unet", None, "segmentation", 2, img_px=32)
    spec = BundleSpec(kind="segmentation", name="t", classes=["bg", "a"], network="unet", img_px=32)
    assert (spec.encoder, spec.head) == (None, "")
    save_bundle(tmp_path, model, spec)
    with pytest.raises(CheckpointError, match="'t' is a unet, which has no encoder"):
        encoder_config_of(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "embedding", "img_px": 32}, "network usfm needs `encoder`"),
        ({"kind": "embedding", "encoder": NANO, "img_px": 64}, "img_px is 64, but that of the encoder is 32"),
        ({"kind": "segmentation", "network": "unet"}, "img_px: Input should be greater than or equal to 1"),
        ({"kind": "segmentation"}, "img_px: Input should be greater than or equal to 1"),
    ],
)
def test_a_spec_that_describes_no_network_is_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BundleSpec.build({"name": "x", **values})


def test_a_head_that_the_kind_lacks_is_refused(tmp_path: Path) -> None:
    model = build_model("usfm", NANO, "segmentation", 2)
    spec = BundleSpec(kind="segmentation", name="t", classes=["bg", "a"], encoder=NANO, head="linear")
    save_bundle(tmp_path, model, spec)
    assert read_bundle_spec(tmp_path).head == "linear"
    with pytest.raises(ConfigError, match="head.name=linear is no head for segmentation; expected light"):
        load_bundle(tmp_path)
