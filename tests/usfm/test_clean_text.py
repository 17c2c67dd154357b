from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from screen_factory import picture

from usfm.data.cleaning.text import drawn, paint_over, wide_colour
from usfm.data.phantoms import ORGANS
from usfm.data.readers.decode import read_frames
from usfm.data.readers.frames import Frame

Pixels = npt.NDArray[np.uint8]
FONT = cv2.FONT_HERSHEY_SIMPLEX
ORGAN_NAMES = sorted(ORGANS)


def annotated(organ: str, seed: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """A picture with a line of text, a measurement and calipers, and where they are."""
    clean = picture(organ, seed, 512)
    pixels = clean.copy()
    rng = np.random.default_rng(seed)
    level = int(rng.choice([200, 230, 255]))
    thick = int(rng.integers(1, 3))
    cv2.putText(pixels, "MAMA DIR 10-11H", (int(rng.integers(10, 200)), 460), FONT, 0.7, level, thick, cv2.LINE_AA)
    cv2.putText(pixels, "D1 15.2mm", (int(rng.integers(10, 330)), 40), FONT, 0.6, level, thick, cv2.LINE_AA)
    return pixels, cv2.absdiff(pixels, clean) > 40


def test_text_over_tissue_is_found_and_little_else() -> None:
    recalls, precisions = [], []
    for organ in ORGAN_NAMES:
        for seed in range(3):
            pixels, truth = annotated(organ, seed)
            found = drawn([Frame(pixels)])
            near = cv2.dilate(truth.view(np.uint8), np.ones((7, 7), np.uint8)) > 0
            recalls.append((found & truth).sum() / truth.sum())
            precisions.append((found & near).sum() / max(1, found.sum()))
    assert np.mean(recalls) >= 0.85
    assert np.median(recalls) >= 0.95
    assert np.mean(precisions) >= 0.9


@pytest.mark.parametrize("organ", ORGAN_NAMES)
def test_tissue_is_left_alone(organ: str) -> None:
    for seed in range(3):
        pixels = picture(organ, seed, 512)
        assert drawn([Frame(pixels)]).mean() <= 2e-4


@pytest.mark.parametrize("source", ["camus_heart", "spj_infant_hip", "cca_carotid", "imfusion_liver_sweep"])
def test_real_tissue_without_text_is_left_alone(corpus: Path, source: str) -> None:
    files = sorted(path for path in (corpus / source).rglob("*.*g") if "mask" not in str(path).lower())[::4]
    assert len(files) >= 4
    shares = [float(drawn(read_frames(path)).mean()) for path in files[:40]]
    assert np.mean(shares) <= 1e-5
    assert max(shares) <= 1e-3


def test_a_ruler_beside_the_tissue_is_found() -> None:
    pixels = picture("heart", 0, 512)
    truth = np.zeros_like(pixels)
    for number, row in enumerate(range(20, 500, 24)):
        cv2.line(truth, (500 - (6 if number % 5 == 0 else 3), row), (500, row), 220, 1)
    found = drawn([Frame(cv2.max(pixels, truth))])
    assert found[truth > 0].mean() >= 0.9


def test_what_stands_still_in_a_moving_clip_is_found() -> None:
    rng = np.random.default_rng(0)
    tissue = [cv2.GaussianBlur(rng.integers(0, 256, (256, 256)).astype(np.uint8), (0, 0), 2) for _ in range(6)]
    frames = [np.clip((t.astype(int) - 128) * 4 + 90, 0, 200).astype(np.uint8) for t in tissue]
    arrow = np.zeros((256, 256), np.uint8)
    cv2.arrowedLine(arrow, (100, 100), (118, 112), 255, 1, tipLength=0.4)
    burned = [Frame(cv2.max(frame, arrow), index) for index, frame in enumerate(frames)]
    found = drawn(burned)
    assert found[arrow > 0].mean() >= 0.9
    assert found[cv2.dilate(arrow, np.ones((7, 7), np.uint8)) == 0].mean() <= 0.001
    assert not drawn([Frame(frame, index) for index, frame in enumerate(frames)]).any()


def test_coloured_strokes_are_drawn_and_coloured_areas_are_flow() -> None:
    pixels = picture("carotid", 0, 512)
    chroma = np.zeros_like(pixels)
    cv2.line(chroma, (40, 40), (40, 300), 180, 2)
    cv2.circle(chroma, (300, 300), 40, 200, cv2.FILLED)
    wide = wide_colour(chroma)
    assert not wide[:, :100].any()
    assert wide[260:341, 260:341].sum() == (chroma[260:341, 260:341] > 0).sum()
    found = drawn([Frame(pixels, chroma=chroma)])
    assert found[40:300, 40].all()
    assert not found[255:346, 255:346].any()
    tinted = np.full_like(pixels, 30)
    assert not wide_colour(tinted).any()


def test_painting_over_restores_the_dark_and_continues_the_tissue() -> None:
    pixels = np.zeros((200, 200), np.uint8)
    pixels[100:] = cv2.GaussianBlur(
        np.random.default_rng(0).integers(60, 140, (100, 200)).astype(np.uint8), (0, 0), 3
    )
    burned, mask = pixels.copy(), np.zeros((200, 200), bool)
    for row in (40, 150):
        cv2.putText(burned, "L KIDNEY", (20, row), FONT, 0.7, 255, 1)
    mask = cv2.dilate((burned != pixels).view(np.uint8), np.ones((3, 3), np.uint8)) > 0
    painted = paint_over(burned, mask)
    assert not painted[:60].any()
    assert np.array_equal(painted[~mask], burned[~mask])
    assert np.abs(painted[mask].astype(int) - pixels[mask]).max() <= 40
    assert np.abs(painted[mask].astype(int) - pixels[mask]).mean() <= 8
    assert np.array_equal(burned != painted, (burned != painted) & mask)
    assert paint_over(pixels, np.zeros((200, 200), bool)) is pixels


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (16, 16)])
def test_small_images_have_no_text(size: tuple[int, int]) -> None:
    assert not drawn([Frame(np.full(size, 200, np.uint8))]).any()


def test_noise_is_no_text() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 512)).astype(np.uint8)
    assert drawn([Frame(noise)]).mean() <= 0.02
    assert np.array_equal(drawn([Frame(noise)]), drawn([Frame(noise.copy())]))
