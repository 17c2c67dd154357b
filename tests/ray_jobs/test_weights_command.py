"""`usfm weights FILE`: the table, its exit status, and what it writes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_factory import beit_model, images, vit_model, with_separate_names

from ray_jobs.cli import main as usfm
from usfm.models.bundle import load_bundle
from usfm.models.weights import AUTHORS_SHA256


@pytest.fixture
def beit(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    theirs = beit_model(use_shared_rel_pos_bias=True, use_fc_norm=False)
    state = with_separate_names(theirs.state_dict(), grid=4) | {"mask_token": torch.randn(1, 1, 96)}
    path = tmp_path / "beit.pth"
    torch.save({"model": state, "epoch": 3}, path)
    return path, theirs


def test_an_explained_file_exits_0_and_names_every_key(beit, capsys: pytest.CaptureFixture[str]) -> None:
    path, theirs = beit
    assert usfm(["weights", str(path)]) == 0
    out = capsys.readouterr().out
    for key in [*theirs.state_dict(), "mask_token", "rel_pos_bias.relative_position_index", "epoch"]:
        assert f" {key} " in out
    for fact in (
        "beit: BEiT",
        "nano, 7",
        "64 px, patches of 16 px, 3 channels",
        "shared_bias",
        "2 dropped, 0 missing",
    ):
        assert fact in out
    assert "not known from the keys" in out
    assert "released)" not in out


def test_an_unexplained_file_exits_1_and_writes_nothing(
    beit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, theirs = beit
    state = theirs.state_dict()
    del state["blocks.1.attn.v_bias"]
    save_file(state | {"neck.weight": torch.ones(2)}, tmp_path / "odd.safetensors")
    output = tmp_path / "out"
    line = ["weights", str(tmp_path / "odd.safetensors"), "normalisation=half", f"output={output}"]
    assert usfm(line) == 1
    out = capsys.readouterr().out
    assert "beit.blocks.1.attn.v_bias" in out
    assert "neck.weight" in out
    assert "1 missing, 1 unexpected" in out
    assert not output.exists()


def test_an_unreadable_file_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert usfm(["weights", str(tmp_path / "none.pth")]) == 2
    assert "error: " in capsys.readouterr().out


def test_the_authors_file_is_known_by_its_hash(beit, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the hash of the file at hand in place of the real one."""
    assert len(AUTHORS_SHA256) == 64
    import hashlib

    monkeypatch.setattr(
        "usfm.models.weights.report.AUTHORS_SHA256", hashlib.sha256(beit[0].read_bytes()).hexdigest()
    )
    assert usfm(["weights", str(beit[0])]) == 0
    assert "(the file that the authors of USFM released)" in capsys.readouterr().out


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bundle_of_it_gives_the_same_tokens(beit, tmp_path: Path, channels: int) -> None:
    path, theirs = beit
    output = tmp_path / "out"
    line = ["weights", str(path), f"output={output}", f"channels={channels}", "licence=MIT"]
    assert usfm(line) == 2  # how its input was normalised is not known
    assert usfm([*line, "normalisation=half"]) == 0
    encoder, spec = load_bundle(output)
    assert (spec.encoder.channels, spec.licences, spec.labels_behind) == (channels, ["MIT"], None)
    with torch.inference_mode():
        expected = theirs.forward_features(((images() - 0.5) / 0.5).expand(-1, 3, -1, -1))
        assert torch.allclose(encoder(images()), expected, atol=1e-5)


def test_the_image_side_can_be_changed(beit, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert usfm(["weights", str(beit[0]), f"output={output}", "img_px=128", "normalisation=half"]) == 0
    encoder, spec = load_bundle(output)
    assert spec.encoder.img_px == 128
    assert encoder(images(1, 128)).shape == (1, 65, 96)


def test_the_authors_layout_there_and_back(beit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, theirs = beit
    written = tmp_path / "ours.pth"
    assert usfm(["weights", str(path), f"released={written}", "normalisation=imagenet"]) == 0
    again = torch.load(written, weights_only=True)
    assert all(torch.equal(tensor, again[key]) for key, tensor in theirs.state_dict().items())
    assert torch.equal(again["mask_token"], torch.load(path, weights_only=True)["model"]["mask_token"])
    save_file(vit_model().state_dict(), tmp_path / "vit.safetensors")
    line = ["weights", str(tmp_path / "vit.safetensors"), f"released={tmp_path / 'no.pth'}", "normalisation=half"]
    assert usfm(line) == 2
    assert "positions=absolute" in capsys.readouterr().out
    assert not (tmp_path / "no.pth").exists()
