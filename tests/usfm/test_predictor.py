import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file
from screen_factory import screen

from usfm.data.augment import resample, whole_images
from usfm.data.cleaning.clean import cut
from usfm.data.cleaning.config import CleanConfig
from usfm.data.cleaning.region import content_box
from usfm.data.prepare import PrepareConfig, prepare, shrink
from usfm.data.readers.frames import Frame
from usfm.data.schema import Item
from usfm.errors import CheckpointError, ImageTooLarge, NoSuchFrame, UnreadableFile
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.task_model import TaskModel
from usfm.predict.decode import Decoded, decode
from usfm.predict.predictor import Extras, Predictor, label_map, read_spec, whole_image
from usfm.predict.render import class_colour, overlay

ENCODER = EncoderConfig(size="tiny", img_px=64)
SEGMENTATION = BundleSpec(kind="segmentation", name="nerve", classes=["bg", "nerve", "vessel"], encoder=ENCODER)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def from_base64(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def dicom_bytes(name: str) -> bytes:
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


@pytest.fixture(scope="module")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundles")
    save_bundle(folder / "segmentation", TaskModel(ENCODER, "segmentation", 3), SEGMENTATION)
    lung = BundleSpec(
        kind="classification", name="lung", classes=["a", "b"], encoder=ENCODER, licences=["CC BY 4.0"]
    )
    save_bundle(folder / "classification", TaskModel(ENCODER, "classification", 2), lung)
    save_bundle(folder / "embedding", Encoder(ENCODER), BundleSpec(kind="embedding", name="tiny", encoder=ENCODER))
    return {path.name: Predictor(path) for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (200, 256), (90, 31)])
def test_preprocess_is_resample_of_the_whole_image_on_training_s_canvas(height: int, width: int) -> None:
    pixels = noise(height, width)
    canvas = torch.zeros(1, 256, 256, dtype=torch.uint8)
    canvas[0, :height, :width] = torch.from_numpy(pixels)
    expected = resample(canvas, torch.tensor([[0.0, 0.0, height, width]]), 64)[0]
    assert torch.equal(whole_image(pixels, 64, 256), expected)
    assert expected.shape == (1, 64, 64)


def test_serving_one_image_and_evaluating_a_batch_see_equal_numbers() -> None:
    images = [noise(height, width) for height, width in ((64, 64), (200, 256), (90, 31))]
    canvases = torch.zeros(3, 256, 256, dtype=torch.uint8)
    for canvas, pixels in zip(canvases, images, strict=True):
        canvas[: pixels.shape[0], : pixels.shape[1]] = torch.from_numpy(pixels)
    height, width = torch.tensor([pixels.shape for pixels in images]).T
    together = whole_images(canvases, height, width, 64)
    assert torch.equal(together, torch.stack([whole_image(pixels, 64, 256) for pixels in images]))


def test_preprocess_shrinks_large_images_as_ingest_does() -> None:
    pixels = noise(300, 700)
    assert torch.equal(whole_image(pixels, 96, 256), whole_image(shrink(pixels, 256), 96, 256))


def test_preprocess_keeps_grey_values(predictors: dict[str, Predictor]) -> None:
    tensor = predictors["embedding"].preprocess(Decoded(np.full((50, 80), 51, np.uint8)))
    torch.testing.assert_close(tensor, torch.full((1, 64, 64), 0.2))


@pytest.mark.parametrize("kind", ["segmentation", "classification", "embedding"])
def test_a_batch_gives_what_single_images_give(predictors: dict[str, Predictor], kind: str) -> None:
    predictor = predictors[kind]
    images = [predictor.preprocess(Decoded(noise(64, 64, seed))) for seed in range(4)]
    together = predictor.predict(images)
    alone = [predictor.predict([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-5)


def test_embedding_is_the_mean_patch_token_without_cls(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["embedding"]
    image = predictor.preprocess(Decoded(noise(64, 64)))
    with torch.inference_mode():
        tokens = predictor._model(image[None])[0]  # (1 + 16, D)
    answer = predictor.encode(predictor.predict([image])[0], Decoded(noise(64, 64)))
    np.testing.assert_allclose(answer["embedding"], tokens[1:].mean(dim=0), rtol=1e-5, atol=1e-6)
    assert answer["length"] == len(answer["embedding"]) == 192


def test_mask_has_the_image_s_own_size_and_its_areas(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["segmentation"]
    decoded = Decoded(noise(123, 457), spacing_mm=0.5)
    raw = predictor.predict([predictor.preprocess(decoded)])[0]
    answer = predictor.encode(raw, decoded, Extras(overlay=True, preview=True))
    mask = from_base64(answer["mask_png"])
    assert mask.shape == (123, 457)
    assert [c["area_px"] for c in answer["classes"]] == [int((mask == k).sum()) for k in range(3)]
    assert [c["area_mm2"] for c in answer["classes"]] == [0.25 * c["area_px"] for c in answer["classes"]]
    assert sum(c["area_px"] for c in answer["classes"]) == 123 * 457
    np.testing.assert_array_equal(from_base64(answer["image_png"]), decoded.pixels)
    np.testing.assert_array_equal(from_base64(answer["overlay_png"]), overlay(decoded.pixels, mask))


def test_label_map_finds_a_known_square_and_its_probability() -> None:
    logits = torch.zeros(2, 8, 8)
    logits[1] = -4
    logits[1, 2:6, 2:6] = 4
    mask, probability = label_map(logits, (16, 16))
    expected = np.zeros((16, 16), np.uint8)
    expected[4:12, 4:12] = 1
    np.testing.assert_array_equal(mask[6:10, 6:10], 1)
    assert (mask != expected).mean() < 0.1
    assert probability[8, 8] == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


def test_no_foreground_has_no_probability_and_no_area(predictors: dict[str, Predictor]) -> None:
    raw = torch.zeros(3, 64, 64)
    raw[0] = 5
    answer = predictors["segmentation"].encode(raw, Decoded(noise(40, 60)))
    assert answer["mean_foreground_probability"] is None
    assert [c["area_px"] for c in answer["classes"]] == [2400, 0, 0]
    assert {c["area_mm2"] for c in answer["classes"]} == {None}


def test_probabilities_are_the_softmax_in_the_order_of_classes(predictors: dict[str, Predictor]) -> None:
    answer = predictors["classification"].encode(torch.tensor([0.0, float(np.log(3))]), Decoded(noise(8, 8)))
    assert answer["probabilities"] == pytest.approx({"a": 0.25, "b": 0.75})
    assert answer["top"]["name"] == "b"
    assert answer["model"]["licences"] == ["CC BY 4.0"]
    assert len(answer["model"]["version"]) == 12
    assert "not for diagnostic use" in answer["notice"]


def test_overlay_leaves_the_background_and_mixes_the_colour() -> None:
    pixels, mask = np.full((1, 2), 100, np.uint8), np.array([[0, 1]], np.uint8)
    mixed = overlay(pixels, mask, opacity=0.5)
    assert mixed[0, 0].tolist() == [100, 100, 100]
    red = int((class_colour(1) or "")[1:3], 16)
    assert mixed[0, 1, 0] == round((100 + red) / 2)


def test_decode_gives_the_pixels_of_a_png() -> None:
    decoded = decode(encoded(noise(30, 40)))
    np.testing.assert_array_equal(decoded.pixels, noise(30, 40))
    assert (decoded.spacing_mm, decoded.frame, decoded.frames, decoded.kind) == (None, 0, 1, "still")


def test_every_frame_of_a_dicom_can_be_asked_for() -> None:
    data = dicom_bytes("examples_ybr_color.dcm")
    first, seventh, last = (decode(data, frame=k) for k in (0, 7, 29))
    assert [d.frame for d in (first, seventh, last)] == [0, 7, 29]
    assert first.frames == 30
    assert first.spacing_mm == pytest.approx(0.51, abs=0.01)
    assert not np.array_equal(first.pixels, seventh.pixels)
    assert not np.array_equal(seventh.pixels, last.pixels)
    for frame in (-1, 30):
        with pytest.raises(NoSuchFrame, match="30 frames, numbers 0 to 29"):
            decode(data, frame=frame)


def test_a_still_has_one_frame() -> None:
    with pytest.raises(NoSuchFrame, match="1 frame, number 0"):
        decode(encoded(noise(30, 40)), frame=1)


def test_sizes_are_refused_from_the_header() -> None:
    bomb = encoded(np.zeros((3000, 4000), np.uint8))
    assert len(bomb) < 100_000
    with pytest.raises(ImageTooLarge, match="4000 x 3000 pixels; at most 10 megapixels"):
        decode(bomb, max_pixels=10_000_000)
    with pytest.raises(ImageTooLarge, match="at most 0.01 megapixels"):
        decode(dicom_bytes("examples_palette.dcm"), max_pixels=10_000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some words, as a person would write them", "text"),
        (encoded(noise(60, 60))[:200], "damaged"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(64), "a clip; send one of its frames"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        decode(data)


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model bundle at"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a model bundle"):
        read_spec(tmp_path)


def cleaning_predictor(folder: Path, clean: CleanConfig | None, stored_px: int | None = None) -> Predictor:
    torch.manual_seed(0)
    spec = SEGMENTATION.model_copy(update={"clean": clean, "stored_px": stored_px})
    save_bundle(folder, TaskModel(ENCODER, "segmentation", 3), spec)
    return Predictor(folder)


@pytest.mark.parametrize("text", ["mask", "flag", "off"])
@pytest.mark.parametrize("stored_px", [256, 96])
def test_the_model_sees_what_ingest_would_have_stored(tmp_path: Path, text: str, stored_px: int) -> None:
    config = PrepareConfig(longest_side_px=stored_px, clean=CleanConfig(text=text))
    predictor = cleaning_predictor(tmp_path / "bundle", config.clean, stored_px)
    data = encoded(screen("kidney", 0).pixels)
    (tmp_path / "a.png").write_bytes(data)
    (row,), _ = prepare(Item(str(tmp_path / "a.png"), "a.png", "kidney"), config)
    stored = np.asarray(Image.open(io.BytesIO(row["image"])))
    assert torch.equal(predictor.preprocess(decode(data)), whole_image(stored, 64, 256))


def test_masks_come_back_on_the_whole_image(tmp_path: Path) -> None:
    predictor = cleaning_predictor(tmp_path, CleanConfig())
    decoded = Decoded(screen("kidney", 0).pixels, spacing_mm=0.5)
    box = predictor.kept(decoded)
    assert box == content_box([Frame(decoded.pixels)])
    assert box.height * box.width < 0.6 * decoded.pixels.size
    raw = torch.zeros(3, 64, 64)
    raw[1] = 5  # all of what the model sees is nerve
    answer = predictor.encode(raw, decoded, Extras(overlay=True))
    mask = from_base64(answer["mask_png"])
    assert mask.shape == decoded.pixels.shape
    assert (cut(mask, box) == 1).all()
    assert [c["area_px"] for c in answer["classes"]] == [
        mask.size - box.height * box.width,
        box.height * box.width,
        0,
    ]
    assert answer["mean_foreground_probability"] == pytest.approx(np.exp(5) / (np.exp(5) + 2), abs=1e-6)
    np.testing.assert_array_equal(from_base64(answer["overlay_png"]), overlay(decoded.pixels, mask))


def test_a_bundle_of_an_older_version_is_not_cleaned(tmp_path: Path) -> None:
    cleaning_predictor(tmp_path, CleanConfig())
    spec = json.loads((tmp_path / "config.json").read_text())
    del spec["clean"], spec["stored_px"]
    (tmp_path / "config.json").write_text(json.dumps(spec))
    predictor = Predictor(tmp_path)
    decoded = Decoded(screen("kidney", 0).pixels)
    assert predictor.kept(decoded) == (0, 0, 600, 800)
    assert torch.equal(predictor.preprocess(decoded), whole_image(decoded.pixels, 64, 256))


def test_a_blank_or_coloured_frame_gets_an_answer(tmp_path: Path) -> None:
    predictor = cleaning_predictor(tmp_path, CleanConfig(doppler="drop", frozen="drop"))
    blank = Decoded(np.zeros((50, 80), np.uint8), chroma=np.full((50, 80), 200, np.uint8))
    torch.testing.assert_close(predictor.preprocess(blank), torch.zeros(1, 64, 64))
    assert predictor.kept(blank) == (0, 0, 50, 80)


def test_a_region_that_dicom_states_is_what_the_model_sees(tmp_path: Path) -> None:
    predictor = cleaning_predictor(tmp_path, CleanConfig(text="off"))
    decoded = decode(dicom_bytes("examples_ybr_color.dcm"))
    assert decoded.region is not None
    assert predictor.kept(decoded) == decoded.region
    kept = cut(decoded.pixels, decoded.region)
    assert torch.equal(predictor.preprocess(decoded), whole_image(kept, 64, 256))
