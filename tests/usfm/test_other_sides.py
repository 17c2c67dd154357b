"""A task's encoder at 512 px from one that was trained at 64 or 96 px, and back; fine-tuning there."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from shard_factory import HEAD, png, row, write_rows
from torch import nn

from usfm.data.tasks import load_task
from usfm.models.bundle import BundleSpec, load_bundle, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.heads.table import HEADS, HeadConfig
from usfm.models.task_model import TaskModel
from usfm.models.windows import predict_canvas
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.initial_weights import load_encoder
from usfm.train.journal import read_journal


def encoder_config(img_px: int, **values: object) -> EncoderConfig:
    return EncoderConfig(size="nano", img_px=img_px, patch_px=16, drop_path=0.0, mask_token="none", **values)


def embedding(folder: Path, encoder: Encoder) -> Path:
    save_bundle(folder, encoder, BundleSpec(kind="embedding", name="e", encoder=encoder.config))
    return folder


def trained(img_px: int, **values: object) -> Encoder:
    """Random, with positions that matter and vary smoothly, as learnt ones do."""
    torch.manual_seed(0)
    encoder = Encoder(encoder_config(img_px, **values)).eval()
    grid = img_px // 16
    if encoder.beit.pos_embed is not None:
        nn.init.zeros_(encoder.beit.pos_embed)
    for name, parameter in encoder.named_parameters():
        if name.endswith("relative_position_bias_table"):
            offsets = torch.arange(1 - grid, grid).float()
            slope = torch.linspace(0.5, 1.5, parameter.shape[1])
            far = -(offsets[:, None].abs() + 0.5 * offsets[None].abs()) / grid  # nearer counts more
            with torch.no_grad():
                parameter[:-3] = far.flatten()[:, None] * slope
                parameter[-3:] = 0.2
    return encoder


@pytest.mark.parametrize("side", [64, 96])
@pytest.mark.parametrize("positions", ["shared_bias", "block_bias", "absolute"])
def test_to_512_and_back(tmp_path: Path, side: int, positions: str) -> None:
    small = trained(side, positions=positions)
    large = TaskModel(encoder_config(512, positions=positions), "segmentation", 2).eval()
    load_encoder(large.encoder, embedding(tmp_path / "small", small))
    with torch.inference_mode():
        logits = large(torch.rand(1, 1, 512, 512, generator=torch.Generator().manual_seed(0)))
        assert logits.shape == (1, 2, 512, 512)
        assert bool(logits.isfinite().all())
        # an image of one grey looks the same at any size: all patches are alike, attention averages over them
        grey, grey_512 = torch.full((1, 1, side, side), 0.4), torch.full((1, 1, 512, 512), 0.4)
        near, far = small(grey)[:, 1:].mean(1), large.encoder(grey_512)[:, 1:].mean(1)
        assert torch.nn.functional.cosine_similarity(near, far).item() > 0.999

    back = Encoder(encoder_config(side, positions=positions)).eval()
    load_encoder(back, embedding(tmp_path / "large", large.encoder))
    for name, tensor in small.state_dict().items():
        moved = back.state_dict()[name]
        if name.endswith("relative_position_bias_table"):
            assert torch.equal(moved[-3:], tensor[-3:])
            assert torch.allclose(neighbours(moved), neighbours(tensor), atol=0.01)
            assert torch.allclose(moved, tensor, atol=0.05)  # from -1.5 to 0
        else:
            assert torch.allclose(moved, tensor, atol=0.0 if name != "beit.pos_embed" else 0.02)
    with torch.inference_mode():
        assert bool(back(torch.rand(1, 1, side, side)).isfinite().all())


def neighbours(table: torch.Tensor) -> torch.Tensor:
    """Biases (3, 3, heads) of a patch's own place and the eight around it."""
    side = round((len(table) - 3) ** 0.5)
    middle = side // 2
    return table[:-3].reshape(side, side, -1)[middle - 1 : middle + 2, middle - 1 : middle + 2]


@pytest.mark.parametrize("name", list(HEADS["segmentation"]))
def test_a_segmentation_heads_weights_fit_every_side(name: str) -> None:
    """Trained at 64 px, used at 160: no weight of a head depends on the image's side."""
    small = TaskModel(encoder_config(64), "segmentation", 2, HeadConfig(name=name))
    large = TaskModel(encoder_config(160), "segmentation", 2, HeadConfig(name=name)).eval()
    large.head.load_state_dict(small.head.state_dict())
    with torch.inference_mode():
        assert large(torch.rand(1, 1, 160, 160)).shape == (1, 2, 160, 160)


def test_an_encoder_of_64_px_is_fine_tuned_at_512_and_answers_by_windows(tmp_path: Path) -> None:
    """Images larger than the square, the head of the authors, the first two steps."""
    rows = [
        enlarged(row("fetal_head", split, n)) for split, n in (("train", 0), ("train", 1), ("val", 1), ("test", 1))
    ]
    torch.manual_seed(0)
    small = Encoder(EncoderConfig(size="nano", img_px=64, patch_px=32, drop_path=0.0, mask_token="none"))
    config = FinetuneConfig.build({
        "run_dir": str(tmp_path / "run"), "shards": str(write_rows(tmp_path / "shards", rows)), "img_px": 512,
        "init": str(embedding(tmp_path / "small", small)), "task": {**HEAD, "canvas_px": 576},
        "head": {"name": "upernet"}, "inference": {"mode": "sliding"},
        "steps": 2, "batch_size": 2, "eval_every": 2, "optim": {"lr": 1e-3, "base_batch": 2},
    })  # fmt: skip
    result = finetune(config, PlainContext(torch.device("cpu")))
    assert 0 <= result["value"] <= 1
    assert [math.isfinite(line["train_loss"]) for line in read_journal(tmp_path / "run")] == [True]
    model, spec = load_bundle(tmp_path / "run" / "best")
    assert (spec.img_px, spec.encoder.img_px, spec.head) == (512, 512, "upernet")
    started = Encoder(small.config.model_copy(update={"img_px": 512}))
    load_encoder(started, tmp_path / "small")
    learnt = model.encoder.state_dict()
    moved = {name for name, tensor in started.state_dict().items() if not torch.equal(tensor, learnt[name])}
    assert any(name.endswith("relative_position_bias_table") for name in moved)
    data = load_task(config.shards, config.task)["test"]
    height, width = int(data.height[0]), int(data.width[0])
    assert max(height, width) > 512
    answer = predict_canvas(model.eval(), torch.from_numpy(data.image[0]), height, width, "sliding")
    assert answer.shape == (2, height, width)
    assert bool(answer.isfinite().all())


def enlarged(small: dict) -> dict:
    """The row with nine times its pixels a side."""
    image, mask = (cv2.imdecode(np.frombuffer(small[k], np.uint8), cv2.IMREAD_UNCHANGED) for k in ("image", "mask"))
    image, mask = (np.kron(pixels, np.ones((9, 9), np.uint8)) for pixels in (image, mask))
    height, width = image.shape
    return small | {"image": png(image), "mask": png(mask), "height": height, "width": width}
