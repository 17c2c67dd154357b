"""What an export is for others: timm and onnxruntime give our tokens; the model card says what is recorded."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from weight_factory import images, randomise

from usfm.errors import CheckpointError
from usfm.models import onnx_file
from usfm.models.bundle import BundleSpec, load_bundle, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.flops import encoder_flops
from usfm.models.onnx_file import write_onnx
from usfm.report.model_card import RunRecord, model_card

NANO = {"size": "nano", "img_px": 64, "drop_path": 0.1}
KINDS = [
    {},
    {"mask_token": "none"},
    {"positions": "block_bias"},
    {"positions": "absolute", "layer_scale": None},
    {"channels": 3},
]


def bundle(folder: Path, **values: object) -> tuple[Encoder, BundleSpec]:
    encoder = randomise(Encoder(EncoderConfig(**NANO | values)))
    return encoder, save_bundle(folder, encoder, BundleSpec(kind="embedding", name="us", encoder=encoder.config))


@pytest.mark.parametrize("values", KINDS)
def test_timm_reads_the_folder_and_gives_our_tokens(tmp_path: Path, values: dict) -> None:
    encoder, spec = bundle(tmp_path, **values)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(theirs)
    assert data["input_size"] == (encoder.config.channels, 64, 64)
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        tokens = theirs.forward_features((images() - mean) / std)
        assert torch.allclose(tokens, encoder(images()), atol=1e-6)
    with_head = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)
    assert torch.equal(with_head.blocks[2].mlp.fc1.weight, encoder.beit.blocks[2].mlp.fc1.weight)
    loaded, read = load_bundle(tmp_path)
    assert read == spec
    own = loaded.state_dict()
    assert set(own) == set(encoder.state_dict())
    assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.state_dict().items())


def test_the_same_encoder_is_the_same_file(tmp_path: Path) -> None:
    one, two = bundle(tmp_path / "a")[1], bundle(tmp_path / "b")[1]
    assert one.version == two.version
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()


def test_without_a_final_norm_nothing_is_promised_to_timm(tmp_path: Path) -> None:
    bundle(tmp_path, final_norm=False)
    assert set(json.loads((tmp_path / "config.json").read_text())) == {"usfm"}
    load_bundle(tmp_path)


@pytest.mark.parametrize("values", [{}, {"positions": "absolute", "layer_scale": None, "channels": 3}])
def test_onnx_gives_our_tokens_for_any_batch(tmp_path: Path, values: dict) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder, _ = bundle(tmp_path, **values)
    stated = write_onnx(encoder, tmp_path / "model.onnx")
    assert stated <= onnx_file.LARGEST_DIFFERENCE
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 5):
        x = images(batch, seed=9)
        (tokens,) = session.run(None, {"images": x.numpy()})
        with torch.inference_mode():
            assert torch.allclose(torch.from_numpy(tokens), encoder(x), atol=1e-4)


def test_an_onnx_file_that_differs_is_removed(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnx_file, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(CheckpointError, match="differs from torch by"):
        write_onnx(Encoder(EncoderConfig(**NANO)), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("values", [{"size": "nano"}, {"size": "tiny", "channels": 3, "patch_px": 8}])
def test_flops_are_those_that_torch_counts(values: dict) -> None:
    encoder = Encoder(EncoderConfig(**NANO | values)).eval()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        encoder(images(1))
    assert encoder_flops(encoder.config) == counter.get_total_flops()


ROWS = [
    {"step": 1, "samples": 8, "images_per_s": 4.0, "organ_count": {"heart": 5, "lung": 3}, "probe/knn/view": 0.5},
    {"step": 2, "samples": 16, "images_per_s": 2.0, "organ_count": {"heart": 4, "lung": 4},
     "probe/knn/view": 0.625, "probe_linear": {"head": 0.71}, "rank/rankme": 12.5},
    {"step": 3, "samples": 24, "images_per_s": 8.0, "organ_count": {"heart": 3, "lung": 5}},
]  # fmt: skip


def card(**changes: object) -> str:
    spec = BundleSpec(kind="embedding", name="us", encoder=EncoderConfig(**NANO), version="abc")
    values: dict = {
        "config": {"workers": 2, "batch": {"global_size": 8},
                   "objective": {"kind": "pixel", "spatial_mask": {"ratio": 0.6}}},
        "plan": {"organ_shares": {"heart": 0.5, "lung": 0.5}, "rows_by_organ": {"heart": 90, "lung": 10},
                 "lanes": 4, "accumulation": 2, "hidden_tokens": 10, "band_radii": [16, 45]},
        "environment": {"device": "cpu", "cpus": 2},
        "rows": ROWS, "items": {("a", "CC-BY-NC-4.0"): 60, ("b", "CC0-1.0"): 40}, "parameters": 123456,
    }  # fmt: skip
    return model_card(spec, RunRecord(**values | changes))


@pytest.mark.parametrize(
    "line",
    [
        "| a | CC-BY-NC-4.0 | NC | 60 |",
        "| b | CC0-1.0 |  | 40 |",
        "| all |  |  | 100 |",
        "| heart | 90 | 0.5000 | 12 | 0.5000 |",
        "| spatial_mask.ratio | 0.6 |",
        "| band_radii | [16, 45] |",
        "| images seen, with those of a run that this one continues | 24 |",
        "| optimizer steps | 3 |",
        "| seconds in this run's steps, without those lost to interruptions | 7.0 |",  # 8/4 + 8/2 + 8/8
        "| workers | 2 |",
        "| CPU core hours, at most | 0.004 (2 cores) |",
        "| encoder parameters | 123,456 |",
        "| probe/knn/view | 0.625 |",
        "| probe_linear.head | 0.71 |",
        "| rank/rankme | 12.5 |",
        "**Research software. Not a medical device; not for diagnosis.**",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)',
    ],
)
def test_the_card_says_what_is_recorded(line: str) -> None:
    assert line in card().splitlines()


def test_workers_are_those_of_the_config_or_all_that_the_plan_allows() -> None:
    gpu, rows = {"device": "NVIDIA X", "cpus": 8}, [ROWS[0] | {"images_per_s": 8 / 3600}]  # one hour
    spread = {"batch": {"global_size": 8}}
    text = card(config=spread | {"workers": [3, 8]}, environment=gpu, rows=rows)
    assert "| workers | 3 to 8 |" in text
    assert "| GPU hours, at most | 8.00 |" in text
    assert "| workers | 3 |" in card(config=spread | {"workers": 3})  # four lanes: 2, 1 and 1
    for lanes in range(1, 13):
        sharing: dict[int, list[int]] = {}
        for workers in range(1, lanes + 1):
            sharing.setdefault(-(-lanes // workers), []).append(workers)
        for accumulation, fit in sharing.items():
            said = str(fit[0]) if len(fit) == 1 else f"{fit[0]} to {fit[-1]}"
            assert f"| workers | {said} |" in card(
                config=spread, plan={"lanes": lanes, "accumulation": accumulation}
            )


def test_the_card_says_what_is_not_recorded() -> None:
    text = card(plan={}, environment={}, rows=[], items={})
    assert "| device | not recorded |" in text
    assert "None were made in this run." in text
    gpu = card(environment={"device": "NVIDIA X", "cpus": 8}, rows=[ROWS[0] | {"images_per_s": 8 / 3600}])
    assert "| GPU hours | 2.00 |" in gpu
    assert "None were made" not in gpu
    assert "largest difference of a token 1.5e-06" in card(onnx_difference=1.5e-6)
