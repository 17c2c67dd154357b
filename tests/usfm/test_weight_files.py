"""The authors' file there and back, what is refused, and that nothing in a file is run."""

import argparse
import hashlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_factory import beit_model, images, released_shapes, vit_model

from usfm.errors import CheckpointError
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights import (
    AUTHORS_SHA256,
    fit_weights,
    read_weights,
    released_keys,
    released_state,
    save_released,
)
from usfm.models.weights.files import read_tensors

INDEX = "rel_pos_bias.relative_position_index"


def row_by_row_index(grid: int) -> torch.Tensor:
    """The index by its definition, in plain loops: (dh + g - 1) * (2 g - 1) + dw + g - 1; CLS rows last."""
    side = 2 * grid - 1
    index = torch.zeros(grid**2 + 1, grid**2 + 1, dtype=torch.int64)
    for query in range(grid**2):
        for key in range(grid**2):
            down, right = query // grid - key // grid, query % grid - key % grid
            index[1 + query, 1 + key] = (down + grid - 1) * side + right + grid - 1
    index[0, :] = side**2  # cls -> patch
    index[:, 0] = side**2 + 1  # patch -> cls
    index[0, 0] = side**2 + 2
    return index


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file with the authors' keys and shapes and random values; theirs is not at hand."""
    draw = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=draw) * 0.02 for key, shape in released_shapes().items()}
    state[INDEX] = row_by_row_index(14)
    path = tmp_path_factory.mktemp("released") / "USFM_latest.pth"
    torch.save(state, path)
    return path, state


def test_the_key_list_is_the_methods() -> None:
    assert len(released_keys()) == len(released_shapes()) == 188
    assert set(released_keys()) == set(released_shapes())
    count = sum(torch.Size(shape).numel() for key, shape in released_shapes().items() if key != INDEX)
    assert count == 85_666_128


def test_the_authors_file_comes_back_bit_by_bit(released: tuple[Path, dict], tmp_path: Path) -> None:
    path, state = released
    source = read_weights(path)
    report = source.report
    assert (report.layout, report.problems) == ("usfm", [])
    assert (report.count("loaded"), report.count("dropped")) == (187, 1)
    assert (source.config.size, source.config.img_px, source.config.channels) == ("base", 224, 3)
    assert source.config.mask_token == "added"
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != AUTHORS_SHA256
    encoder = Encoder(source.config)
    encoder.load_state_dict(fit_weights(source, source.config))
    save_released(encoder, tmp_path / "again.pth")
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert set(again) == set(state)
    assert again[INDEX].dtype == torch.int64
    assert [key for key in state if not torch.equal(again[key], state[key])] == []


def test_a_grey_encoder_in_the_authors_layout_is_equal_on_grey(tmp_path: Path) -> None:
    """Their code feeds grey three times, with ImageNet's mean and deviation."""
    torch.manual_seed(0)
    config = EncoderConfig(size="nano", img_px=64, drop_path=0.0)
    encoder = Encoder(config).eval()
    state = released_state(encoder)
    assert state["patch_embed.proj.weight"].shape == (96, 3, 16, 16)
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    theirs.load_state_dict({key: tensor for key, tensor in state.items() if key not in (INDEX, "mask_token")})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    fed = (images().expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(theirs.forward_features(fed), encoder(images()), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"positions": "absolute"}, "positions=absolute"),
        ({"layer_scale": None}, "layer_scale=none"),
        ({"mask_token": "none"}, "no mask token"),
        ({"final_norm": False}, "final_norm=False"),
    ],
)
def test_what_the_authors_layout_cannot_hold_is_refused(values: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        released_state(Encoder(EncoderConfig(size="nano", img_px=32, **values)))


def change(state: dict, **changes: torch.Tensor | None) -> dict:
    """A copy with tensors put in, or taken out (None)."""
    names = {key.replace("__", "."): tensor for key, tensor in changes.items()}
    return {k: t for k, t in (state | names).items() if t is not None}


@pytest.mark.parametrize(
    ("changes", "name", "fate"),
    [
        ({"blocks__3__attn__q_bias": None}, "beit.blocks.3.attn.q_bias", "missing"),
        ({"blocks__0__gamma_2": None}, "beit.blocks.0.gamma_2", "missing"),
        ({"blocks__0__attn__q_norm__weight": torch.ones(32)}, "blocks.0.attn.q_norm.weight", "unexpected"),
        ({"blocks__2__mlp__fc1__bias": torch.ones(7)}, "beit.blocks.2.mlp.fc1.bias", "unexpected"),
        ({"norm__bias": torch.full((96,), torch.nan)}, "norm.bias", "unexpected"),
        ({"stem__conv__weight": torch.ones(3)}, "stem.conv.weight", "unexpected"),
    ],
)
def test_every_unexplained_key_is_an_error(tmp_path: Path, changes: dict, name: str, fate: str) -> None:
    state = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False).state_dict()
    save_file(change(state, **changes), tmp_path / "a.safetensors")
    source = read_weights(tmp_path / "a.safetensors")
    assert (name, fate) in [(key.name, key.fate) for key in source.report.problems]
    with pytest.raises(CheckpointError, match="are unexplained"):
        fit_weights(source, source.config, "half")


def test_wrong_networks_are_named(tmp_path: Path) -> None:
    for name, state, message in [
        ("conv", {"conv1.weight": torch.ones(3)}, "no cls_token among its 1 keys"),
        ("wide", vit_model(embed_dim=120).state_dict(), "120 wide with 6 blocks"),
        ("lost", change(vit_model().state_dict(), pos_embed=None), "has none for positions"),
        ("five", vit_model(in_chans=5).state_dict(), "takes 5 channels"),
    ]:
        save_file(state, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / f"{name}.safetensors")


class Attack:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    path, target = tmp_path / "evil.pth", tmp_path / "owned"
    torch.save({"model": {"cls_token": torch.ones(1, 1, 96)}, "extra": Attack(target)}, path)
    with pytest.raises(CheckpointError, match=r"may be code; nothing of it was run.*mkdir.*safetensors"):
        read_tensors(path)
    assert not target.exists()
    torch.load(path, weights_only=False)  # the file does what it says where it is trusted
    assert target.exists()


def test_settings_beside_the_weights_are_read_as_plain_values(tmp_path: Path, monkeypatch) -> None:
    """MAE's files carry an argparse.Namespace, SimMIM's a yacs node; neither class is imported."""
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module = types.ModuleType("yacs.config")
    module.CfgNode = node
    state = vit_model().state_dict()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patched.setitem(sys.modules, "yacs.config", module)
        torch.save({"model": state, "args": argparse.Namespace(lr=1), "config": node(a=1)}, tmp_path / "a.pth")
    assert "yacs" not in sys.modules
    tensors, beside = read_tensors(tmp_path / "a.pth")
    assert set(tensors) == set(state)
    assert set(beside) == {"args", "config"}


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    cases = {
        "half.safetensors": (b"\x10\x00", "not a whole safetensors file"),
        "text.pth": (b"hello", "damaged|more than weights"),
        "a.npz": (b"", "known endings: .safetensors"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            read_weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="no weight file at"):
        read_weights(tmp_path / "none.pth")
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no weights by name: got a list"):
        read_weights(tmp_path / "list.pth")


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {key: tensor.half() for key, tensor in beit_model(use_shared_rel_pos_bias=True).state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    source = read_weights(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in source.state.values()} == {torch.float32}
    assert torch.equal(source.state["beit.cls_token"], state["cls_token"].float())
    assert all("from torch.float16" in key.note for key in source.report.keys if key.fate == "loaded")
