"""Other people's networks and ours give the same tokens from the same file. Oracle: timm, and formulas by hand."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from weight_factory import beit_model, images, vit_model, with_separate_names

from usfm.errors import CheckpointError, ConfigError
from usfm.models.encoder import Encoder
from usfm.models.weights import fit_weights, grey_config, read_weights
from usfm.models.weights.grey import NORMALISATIONS

IMAGENET = (torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None])
HALF = (torch.tensor(0.5), torch.tensor(0.5))


def ours_from(path: Path, normalisation: str | None = None) -> Encoder:
    """The grey encoder that a file becomes."""
    source = read_weights(path)
    encoder = Encoder(grey_config(source)).eval()
    encoder.load_state_dict(fit_weights(source, encoder.config, normalisation))
    return encoder


def colour(grey: torch.Tensor, scale: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """What the other network is fed: grey three times, normalised its way."""
    return (grey.expand(-1, 3, -1, -1) - scale[0]) / scale[1]


def fates(path: Path) -> dict[str, str]:
    return {key.name: key.fate for key in read_weights(path).report.keys}


@pytest.mark.parametrize("values", [{}, {"init_values": 0.3}, {"no_embed_class": True}, {"in_chans": 1}])
def test_timms_vit_is_our_encoder_with_absolute_positions(tmp_path: Path, values: dict) -> None:
    theirs = vit_model(**values)
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    grey = images()
    source = read_weights(tmp_path / "vit.safetensors")
    assert (source.report.layout, source.report.problems) == ("vit", [])
    assert source.config.positions == "absolute"
    assert bool(source.config.layer_scale) == ("init_values" in values)
    if "in_chans" in values:
        ours, fed = ours_from(tmp_path / "vit.safetensors", "half"), (grey - 0.5) / 0.5
    else:
        ours, fed = ours_from(tmp_path / "vit.safetensors", "imagenet"), colour(grey, IMAGENET)
    with torch.inference_mode():
        assert torch.allclose(ours(grey), theirs.forward_features(fed), atol=1e-5)


def test_a_key_bias_changes_nothing(tmp_path: Path) -> None:
    """Dropping it is exact: it adds the same number to all scores of a query."""
    theirs = vit_model()
    x = colour(images(), IMAGENET)
    with torch.inference_mode():
        before = theirs.forward_features(x)
        for block in theirs.blocks:
            block.attn.qkv.bias[96:192] = torch.randn(96) * 3
        assert torch.allclose(theirs.forward_features(x), before, atol=1e-5)


def test_what_a_plain_vit_was_normalised_with_must_be_said(tmp_path: Path) -> None:
    save_file(vit_model().state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="normalisation=NAME output=FOLDER"):
        ours_from(tmp_path / "vit.safetensors")
    with pytest.raises(ConfigError, match="expected one of imagenet, half, equal"):
        ours_from(tmp_path / "vit.safetensors", "imagnet")


def test_maes_checkpoint_is_read_without_its_decoder(tmp_path: Path) -> None:
    theirs = vit_model()
    state = theirs.state_dict() | {
        "mask_token": torch.randn(1, 1, 48), "decoder_pos_embed": torch.randn(1, 17, 48),
        "decoder_embed.weight": torch.randn(48, 96), "decoder_blocks.0.attn.qkv.weight": torch.randn(144, 48),
        "decoder_norm.weight": torch.randn(48), "decoder_pred.bias": torch.randn(768),
    }  # fmt: skip
    path = tmp_path / "mae.pth"
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 800}, path)
    assert read_weights(path).report.layout == "mae"
    dropped = {name for name, fate in fates(path).items() if fate == "dropped"}
    assert dropped == {name for name in state if name.startswith("decoder_")} | {"mask_token", "optimizer", "epoch"}
    ours, grey = ours_from(path), images()
    assert ours.mask_token is None
    with torch.inference_mode():
        assert torch.allclose(ours(grey), theirs.forward_features(colour(grey, IMAGENET)), atol=1e-5)


@pytest.mark.parametrize("wrapped", ["flat", "teacher", "chunks"])
def test_dinov2_with_patches_of_14(tmp_path: Path, wrapped: str) -> None:
    theirs = vit_model(patch_size=14, img_size=70, init_values=1.0)
    token = torch.randn(1, 96)
    state = theirs.state_dict() | {"mask_token": token}
    if wrapped == "teacher":
        inner = {f"backbone.{key}": value for key, value in state.items()}
        state = {"teacher": inner | {"dino_head.mlp.0.weight": torch.randn(8, 96)}, "iteration": 1}
    elif wrapped == "chunks":
        state = {
            key.replace("blocks.", f"blocks.{int(key.split('.')[1]) // 3}.")
            if key.startswith("blocks.")
            else key: t
            for key, t in state.items()
        }
    path = tmp_path / "dino.pth"
    torch.save(state, path)
    source = read_weights(path)
    assert (source.report.layout, source.report.problems) == ("dinov2", [])
    assert (source.config.patch_px, source.config.img_px, source.config.mask_token) == (14, 70, "replace")
    ours, grey = ours_from(path), images(side=70)
    hidden = torch.zeros(2, 5, 5, dtype=torch.bool)
    hidden[0, 1, 2] = hidden[1, 4] = True
    with torch.inference_mode():
        assert torch.allclose(ours(grey), theirs.forward_features(colour(grey, IMAGENET)), atol=1e-5)
        patches = theirs.patch_embed(colour(grey, IMAGENET))
        patches = torch.where(hidden.flatten(1)[..., None], token, patches)  # before positions, as DINOv2 does
        x = torch.cat([theirs.cls_token.expand(2, -1, -1), patches], dim=1) + theirs.pos_embed
        assert torch.allclose(ours(grey, hidden), theirs.norm(theirs.blocks(x)), atol=1e-5)


def test_register_tokens_are_refused(tmp_path: Path) -> None:
    state = vit_model(init_values=1.0).state_dict() | {"register_tokens": torch.randn(1, 4, 96)}
    save_file(state, tmp_path / "dino.safetensors")
    source = read_weights(tmp_path / "dino.safetensors")
    assert [key.name for key in source.report.problems] == ["register_tokens"]
    with pytest.raises(CheckpointError, match="register tokens: our encoder has none"):
        ours_from(tmp_path / "dino.safetensors")


@pytest.mark.parametrize("kind", ["shared", "per block", "fine-tuned"])
def test_beit_in_each_of_its_kinds(tmp_path: Path, kind: str) -> None:
    tuned = kind == "fine-tuned"
    theirs = beit_model(
        use_shared_rel_pos_bias=kind == "shared",
        use_rel_pos_bias=kind != "shared",
        use_fc_norm=tuned,
        num_classes=5 if tuned else 0,
    )
    state = with_separate_names(theirs.state_dict(), grid=4)
    if not tuned:
        state |= {"mask_token": torch.randn(1, 1, 96), "lm_head.weight": torch.randn(8, 96)}
    path = tmp_path / "beit.pth"
    torch.save({"module": state}, path)
    source = read_weights(path)
    assert (source.report.layout, source.report.problems) == ("beit", [])
    assert source.config.positions == ("shared_bias" if kind == "shared" else "block_bias")
    assert source.config.final_norm != tuned
    ours, grey = ours_from(path, "half"), images()
    with torch.inference_mode():
        assert torch.allclose(ours(grey), theirs.forward_features(colour(grey, HALF)), atol=1e-5)


def test_another_index_than_ours_is_an_error(tmp_path: Path) -> None:
    """A table that is read column by column is another network."""
    state = with_separate_names(beit_model(use_shared_rel_pos_bias=True).state_dict(), grid=4)
    index = state["rel_pos_bias.relative_position_index"].clone()
    index[1:, 1:] = index[1:, 1:].reshape(4, 4, 4, 4).permute(1, 0, 3, 2).reshape(16, 16)
    state["rel_pos_bias.relative_position_index"] = index
    save_file(state, tmp_path / "beit.safetensors")
    assert [key.name for key in read_weights(tmp_path / "beit.safetensors").report.problems] == [
        "rel_pos_bias.relative_position_index"
    ]


def test_simmims_checkpoint(tmp_path: Path) -> None:
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    state = with_separate_names(theirs.state_dict(), grid=4) | {"mask_token": torch.randn(1, 1, 96)}
    state = {f"encoder.{key}": tensor for key, tensor in state.items()}
    state |= {"decoder.0.weight": torch.randn(768, 96, 1, 1), "decoder.0.bias": torch.randn(768)}
    path = tmp_path / "simmim.pth"
    torch.save({"model": state, "epoch": 799}, path)
    source = read_weights(path)
    assert (source.report.layout, source.report.problems, source.config.mask_token) == ("simmim", [], "replace")
    ours, grey = ours_from(path), images()
    with torch.inference_mode():
        assert torch.allclose(ours(grey), theirs.forward_features(colour(grey, IMAGENET)), atol=1e-5)


@pytest.mark.parametrize("name", sorted(NORMALISATIONS))
@pytest.mark.parametrize("positions", ["shared", "absolute"])
def test_three_channels_are_one_on_grey(tmp_path: Path, name: str, positions: str) -> None:
    """The fold of kernel and bias, at the patch embedding itself; a plain sum would be off by more than 0.01."""
    theirs = vit_model() if positions == "absolute" else beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    path = tmp_path / "colour.safetensors"
    save_file(theirs.state_dict(), path)
    ours, grey = ours_from(path, name), images()
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATIONS[name])
    with torch.inference_mode():
        expected = theirs.patch_embed(colour(grey, (mean, std)))
        assert torch.allclose(ours.beit.patch_embed(ours.normalise(grey)), expected, atol=1e-5)
        kernel, bias = theirs.patch_embed.proj.weight, theirs.patch_embed.proj.bias
        plain = F.conv2d(ours.normalise(grey), kernel.sum(1, keepdim=True), bias, stride=16)
        error = (plain.flatten(2).transpose(1, 2) - expected).abs().max()
        assert (error < 1e-5) == (name == "equal")


def test_a_colour_encoder_keeps_its_kernel(tmp_path: Path) -> None:
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    state = {f"encoder.{key}": tensor for key, tensor in theirs.state_dict().items()}
    save_file(state | {"decoder.0.weight": torch.randn(768, 96, 1, 1)}, tmp_path / "simmim.safetensors")
    source = read_weights(tmp_path / "simmim.safetensors")
    assert source.config.channels == 3
    encoder = Encoder(source.config).eval()
    encoder.load_state_dict(fit_weights(source, source.config))
    assert torch.equal(encoder.beit.patch_embed.proj.weight, theirs.patch_embed.proj.weight)
    with torch.inference_mode():
        expected = theirs.forward_features(colour(images(), IMAGENET))
        assert torch.allclose(encoder(images()), expected, atol=1e-5)
