"""Answers of the kinds of task beside classes and masks: several labels, numbers, images."""

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from screen_factory import screen

from usfm.data.cleaning.config import CleanConfig
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import EncoderConfig
from usfm.models.task_model import build_model
from usfm.models.windows import WindowConfig, predict_canvas
from usfm.predict.decode import Decoded
from usfm.predict.predictor import Extras, Predictor

ENCODER = EncoderConfig(size="nano", img_px=32, patch_px=8)


def predictor(folder: Path, kind: str, classes: list[str] | None = None, **values: object) -> Predictor:
    torch.manual_seed(0)
    shape = {"network": "unet", "img_px": 32} if kind == "enhancement" else {"encoder": ENCODER}
    spec = BundleSpec.build({"kind": kind, "name": kind, "classes": classes or [], **shape, **values})
    outputs = len(spec.classes) or 1
    save_bundle(folder, build_model(spec.network, spec.encoder, spec.kind, outputs, img_px=spec.img_px), spec)
    return Predictor(folder)


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_several_labels_have_a_probability_each(tmp_path: Path) -> None:
    several = predictor(tmp_path, "multilabel", ["fluid", "mass", "stone"])
    raw = torch.tensor([math.log(3), -math.log(3), 0.0])
    answer = several.encode(raw, Decoded(noise(40, 50)))
    assert answer["probabilities"] == pytest.approx({"fluid": 0.75, "mass": 0.25, "stone": 0.5})
    assert answer["present"] == ["fluid"]  # a probability of one half is not above one half
    (said,) = several.predict([several.preprocess(Decoded(noise(40, 50)))])
    assert said.shape == (3,)


def test_a_number_comes_with_its_unit(tmp_path: Path) -> None:
    measured = predictor(tmp_path, "regression", target="EF", unit="%")
    answer = measured.encode(torch.tensor([55.5]), Decoded(noise(40, 50), spacing_mm=0.5))
    assert (answer["target"], answer["unit"], answer["value"]) == ("EF", "%", 55.5)
    assert measured.predict([measured.preprocess(Decoded(noise(40, 50)))])[0].shape == (1,)


def test_a_length_is_that_of_the_file_whatever_its_size(tmp_path: Path) -> None:
    heads = predictor(tmp_path, "regression", target="HC_mm", unit="mm", scales_with_size=True, clean=CleanConfig())
    decoded = Decoded(screen("kidney", 0).pixels, spacing_mm=0.5)
    box = heads.kept(decoded)
    side = math.sqrt(box.height * box.width)
    assert side < 0.8 * math.sqrt(decoded.pixels.size)
    answer = heads.encode(torch.tensor([1.5]), decoded)
    assert answer["value"] == pytest.approx(1.5 * side * 0.5)
    assert answer["value_px"] == pytest.approx(1.5 * side)
    unknown = heads.encode(torch.tensor([1.5]), Decoded(decoded.pixels))
    assert (unknown["value"], unknown["value_px"]) == (None, answer["value_px"])


def test_an_enhanced_image_has_the_file_s_size_and_its_fine_detail(tmp_path: Path) -> None:
    better = predictor(tmp_path, "enhancement", clean=CleanConfig(text="off"))
    decoded = Decoded(screen("kidney", 0).pixels)
    square = better.preprocess(decoded)
    same = better.encode(square, decoded, Extras(preview=True))
    np.testing.assert_array_equal(picture(same["enhanced_png"]), decoded.pixels)
    np.testing.assert_array_equal(picture(same["image_png"]), decoded.pixels)
    brighter = picture(better.encode(square + 20 / 255, decoded)["enhanced_png"])
    box = better.kept(decoded)
    inside = np.zeros(decoded.pixels.shape, bool)
    inside[box.top : box.top + box.height, box.left : box.left + box.width] = True
    np.testing.assert_array_equal(brighter[~inside], decoded.pixels[~inside])
    expected = np.minimum(decoded.pixels[inside].astype(int) + 20, 255)
    assert np.abs(brighter[inside].astype(int) - expected).max() <= 1
    assert better.predict([square])[0].shape == (1, 32, 32)


def test_a_network_may_slide_over_the_stored_image(tmp_path: Path) -> None:
    sliding = predictor(tmp_path, "segmentation", ["background", "head"], inference=WindowConfig(mode="sliding"))
    decoded = Decoded(noise(70, 50))
    seen = sliding.preprocess(decoded)
    np.testing.assert_allclose(seen[0], decoded.pixels / 255, atol=1e-6)
    (raw,) = sliding.predict([seen])
    with torch.inference_mode():
        expected = predict_canvas(sliding._model, seen[0], 70, 50, "sliding", 0.25)
    torch.testing.assert_close(raw, expected)
    answer = sliding.encode(raw, decoded)
    np.testing.assert_array_equal(picture(answer["mask_png"]), raw.argmax(dim=0).numpy())
