import pytest
import torch
from timm.models.beit import Beit
from torch import nn

from usfm.errors import CheckpointError
from usfm.models.bundle import BundleSpec, load_bundle, save_bundle
from usfm.models.decoder import PixelShuffleDecoder
from usfm.models.encoder import SIZES, Encoder, EncoderConfig
from usfm.models.objective import ObjectiveConfig
from usfm.models.pixel_objective import PixelObjective
from usfm.models.task_model import TaskModel

SMALL = EncoderConfig(size="tiny", img_px=64, drop_path=0.0)


def images(n: int = 2, side: int = 64) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_base_has_the_papers_parameters() -> None:
    encoder = Encoder(EncoderConfig())
    count = sum(p.numel() for p in encoder.parameters())
    # method: 85,666,128 with three input channels; ours has one
    assert count == 85_666_128 - 2 * 768 * 16 * 16
    assert encoder.beit.rel_pos_bias.relative_position_bias_table.shape == (732, 12)


def test_output_equals_timm_with_the_same_weights() -> None:
    torch.manual_seed(0)
    encoder = Encoder(SMALL).eval()
    width, depth, heads = SIZES["tiny"]
    shape = {"embed_dim": width, "depth": depth, "num_heads": heads, "init_values": 0.1, "img_size": 64}
    bias = {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True, "use_fc_norm": False}
    timm = Beit(in_chans=1, num_classes=0, **shape, **bias)
    timm.eval()
    nn.init.normal_(encoder.beit.rel_pos_bias.relative_position_bias_table)
    timm.load_state_dict(encoder.beit.state_dict())
    x = images()
    with torch.inference_mode():
        assert torch.allclose(encoder(x), timm.forward_features((x - 0.449) / 0.226), atol=3e-6)


@pytest.mark.parametrize("mode", ["added", "replace", "none"])
def test_mask_token_modes(mode: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(size="tiny", img_px=64, mask_token=mode, drop_path=0.0)).eval()
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[:, :2] = True
    x, other = images(), images().clone()
    other[:, :, :32] = 0.5  # other pixels below the mask
    with torch.inference_mode():
        plain, marked, changed = encoder(x), encoder(x, hidden), encoder(other, hidden)
    assert torch.equal(plain, marked) == (mode == "none")
    assert torch.allclose(marked, changed, atol=1e-5) == (mode == "replace")  # only "replace" forgets the pixels


def test_decoder_puts_each_tokens_pixels_into_its_patch() -> None:
    decoder = PixelShuffleDecoder(8, patch_px=4)
    tokens = torch.randn(1, 9, 8)
    whole = decoder(tokens)
    assert whole.shape == (1, 1, 12, 12)
    tokens[:, 5] += 1  # row 1, column 2
    changed = (decoder(tokens) != whole)[0, 0]
    assert changed[4:8, 8:12].all()
    assert changed.sum() == 16


@pytest.mark.parametrize(("spatial", "frequency"), [(1.0, 0.0), (0.0, 1.0)])
def test_each_loss_alone_reaches_every_parameter(spatial: float, frequency: float) -> None:
    torch.manual_seed(0)
    config = ObjectiveConfig(spatial_weight=spatial, frequency_weight=frequency, spatial_mask={"unit_px": 16})
    model = PixelObjective(SMALL, config, seed=0)
    model(images(4), torch.arange(4)).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_objective_reports_what_it_did() -> None:
    model = PixelObjective(SMALL, ObjectiveConfig(spatial_mask={"unit_px": 16}, support="removed_bands"), seed=0)
    x = images(4)
    out = model(x, torch.arange(4))
    terms = out.terms
    assert torch.isclose(out.loss, terms["spatial"] + 0.1 * terms["frequency"])
    assert torch.isclose(
        out.per_sample.mean(), terms["spatial"], rtol=1e-5
    )  # equally many pixels are hidden in each
    assert out.reconstruction.shape == x.shape
    part = model(x[2:], torch.arange(2, 4))
    assert torch.allclose(part.reconstruction, out.reconstruction[2:], atol=1e-5)


def test_heads_answer_in_their_shapes() -> None:
    assert TaskModel(SMALL, "classification", 3)(images()).shape == (2, 3)
    assert TaskModel(SMALL, "segmentation", 2)(images()).shape == (2, 2, 64, 64)


def test_a_bundle_comes_back_whole_and_a_changed_one_is_refused(tmp_path) -> None:
    torch.manual_seed(0)
    model = TaskModel(SMALL, "segmentation", 2).eval()
    spec = save_bundle(
        tmp_path, model, BundleSpec(kind="segmentation", name="t", classes=["a", "b"], encoder=SMALL)
    )
    loaded, read = load_bundle(tmp_path)
    assert read == spec
    with torch.inference_mode():
        assert torch.equal(loaded(images()), model(images()))
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="is not the file that config.json describes"):
        load_bundle(tmp_path)
    with pytest.raises(CheckpointError, match="no model bundle at"):
        load_bundle(tmp_path / "none")


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
def test_every_parameter_of_a_task_model_gets_a_gradient(kind: str) -> None:
    """DistributedDataParallel waits for each of them."""
    torch.manual_seed(0)
    model = TaskModel(SMALL, kind, 2)
    model(images()).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
