import cv2
import numpy as np
import torch

from usfm.data.augment import CropConfig, crop_boxes, random_crops, resample

SIDE = 64


def batch(n: int = 200) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    height, width = torch.tensor(rng.integers(20, SIDE, n)), torch.tensor(rng.integers(20, SIDE, n))
    image = torch.zeros(n, SIDE, SIDE, dtype=torch.uint8)
    for k in range(n):
        image[k, : height[k], : width[k]] = torch.tensor(rng.integers(1, 255, (int(height[k]), int(width[k]))))
    return {"index": torch.arange(n), "height": height, "width": width, "image": image}


def test_boxes_are_inside_and_of_the_stated_area_and_ratio() -> None:
    b, config = batch(2000), CropConfig()
    boxes, flip = crop_boxes(b["index"], b["height"], b["width"], config, seed=1)
    top, left, high, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= b["height"] + 1e-3).all()
    assert (left + wide <= b["width"] + 1e-3).all()
    whole = (high == b["height"]) & (wide == b["width"])  # the fallback for very long images
    area = (high * wide / (b["height"] * b["width"]))[~whole]
    ratio = (wide / high)[~whole]
    assert area.min() >= 0.67 - 1e-4
    assert area.max() <= 1 + 1e-4
    assert ratio.min() >= 0.75 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4
    assert 0.45 < flip.float().mean() < 0.55


def test_crops_do_not_depend_on_the_batch() -> None:
    b = batch(8)
    together = random_crops(b, 32, CropConfig(), seed=5)
    for k in range(8):
        alone = random_crops({name: t[k : k + 1] for name, t in b.items()}, 32, CropConfig(), seed=5)
        assert torch.equal(alone[0], together[k])


def test_the_same_row_gets_another_crop_next_time() -> None:
    b = batch(1)
    later = {**b, "index": b["index"] + 1}
    assert not torch.equal(random_crops(b, 32, CropConfig(), 0), random_crops(later, 32, CropConfig(), 0))


def test_identity_box_returns_the_image() -> None:
    b = batch(3)
    box = torch.tensor([[0.0, 0.0, SIDE, SIDE]]).repeat(3, 1)
    assert torch.allclose(resample(b["image"], box, SIDE)[:, 0], b["image"].float() / 255, atol=1e-6)


def test_bilinear_equals_opencv() -> None:
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 255, (SIDE, SIDE)).astype(np.float32), (0, 0), 2)
    box = torch.tensor([[8.0, 12.0, 40.0, 48.0]])
    ours = resample(torch.tensor(image)[None], box, 60)[0, 0].numpy()
    theirs = cv2.resize(image[8:48, 12:60], (60, 60), interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - theirs).max() < 0.02 * 255


def test_empty_canvas_never_bleeds_in() -> None:
    image = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    image[:, :30, :41] = 200
    out = resample(image, torch.tensor([[0.0, 0.0, 30.0, 41.0]]), 32)
    assert torch.allclose(out, torch.full_like(out, 200 / 255), atol=1e-6)


def test_flip_mirrors_and_nearest_keeps_class_numbers() -> None:
    b = batch(4)
    masks = (b["image"] > 128).to(torch.uint8) * 2
    box = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(4, 1)
    plain = resample(masks, box, 20, nearest=True)
    assert torch.equal(plain[:, 0], masks[:, :20, :20].float())
    mirrored = resample(masks, box, 20, torch.ones(4, dtype=torch.bool), nearest=True)
    assert torch.equal(mirrored.flip(-1), plain)
