from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from screen_factory import picture, screen

from usfm.data.cleaning.clean import cut
from usfm.data.cleaning.region import content_box, grown, whole
from usfm.data.phantoms import ORGANS
from usfm.data.readers.frames import Box, Frame

SEEDS = range(3)
SECTORS = ("heart", "kidney", "liver")


@pytest.mark.parametrize("ground", [0, 54, 255])
@pytest.mark.parametrize("organ", sorted(ORGANS))
def test_the_box_holds_the_picture_and_leaves_the_screen(organ: str, ground: int) -> None:
    for seed in SEEDS:
        shown = screen(organ, seed, ground)
        box = content_box([Frame(shown.pixels)])
        assert cut(shown.lit, box).sum() >= 0.999 * shown.lit.sum()
        assert box.height * box.width <= 1.25 * shown.picture.height * shown.picture.width
        furniture = np.abs(shown.pixels.astype(int) - ground) > 100
        furniture[
            shown.picture.top : shown.picture.top + shown.picture.height,
            shown.picture.left : shown.picture.left + shown.picture.width,
        ] = False
        assert cut(furniture, box).sum() <= 0.05 * furniture.sum()


@pytest.mark.parametrize("organ", sorted(set(ORGANS) - {*SECTORS, "fetal_head", "lung"}))
def test_a_picture_without_furniture_stays_whole(organ: str) -> None:
    for seed in SEEDS:
        pixels = picture(organ, seed)
        assert content_box([Frame(pixels)]) == whole(pixels)


@pytest.mark.parametrize("organ", SECTORS)
def test_a_sector_without_furniture_loses_nothing(organ: str) -> None:
    for seed in SEEDS:
        pixels = picture(organ, seed)
        kept = cut(pixels, content_box([Frame(pixels)]))
        assert kept.sum(dtype=np.int64) >= 0.9999 * pixels.sum(dtype=np.int64)


def test_letter_boxes_of_any_level_are_cut_off() -> None:
    inner = np.random.default_rng(0).integers(30, 200, (300, 512)).astype(np.uint8)
    for level in (0, 60, 107, 255):
        pixels = np.full((512, 512), level, np.uint8)
        pixels[100:400] = inner
        box = content_box([Frame(pixels)])
        assert (box.left, box.width) == (0, 512)
        assert 90 <= box.top <= 100
        assert 400 <= box.top + box.height <= 410


def test_what_is_dark_inside_a_grey_panel_belongs_to_the_picture() -> None:
    pixels = np.full((600, 800), 57, np.uint8)
    pixels[80:560, 200:600] = 0
    pixels[80:200, 200:600] = np.random.default_rng(0).integers(20, 250, (120, 400))
    box = content_box([Frame(pixels)])
    assert abs(box.top - 80) <= 5
    assert abs(box.height - 480) <= 10
    assert abs(box.left - 200) <= 5
    assert abs(box.width - 400) <= 10


def test_one_box_for_all_frames_of_a_clip() -> None:
    shown = [screen("heart", 0).pixels, screen("heart", 0).pixels.copy()]
    shown[0][:300], shown[1][300:] = 0, 0
    alone = [content_box([Frame(pixels)]) for pixels in shown]
    together = content_box([Frame(pixels) for pixels in shown])
    assert together == content_box([Frame(np.maximum(*shown))])
    assert together not in alone


def test_a_region_that_the_file_states_decides_unless_it_is_the_screen() -> None:
    frame = Frame(screen("heart", 0).pixels)
    stated = Box(30, 40, 300, 400)
    assert content_box([replace(frame, region=stated)]) == stated
    other = replace(frame, region=Box(10, 50, 300, 500))
    assert content_box([replace(frame, region=stated), other]) == Box(10, 40, 320, 510)
    everything = replace(frame, region=Box(0, 0, 600, 799))
    assert content_box([everything]) == content_box([frame])


@pytest.mark.parametrize("level", [0, 7, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (3, 700), (20, 20), (480, 640)])
def test_nothing_to_see_is_kept_whole(level: int, size: tuple[int, int]) -> None:
    pixels = np.full(size, level, np.uint8)
    assert content_box([Frame(pixels)]) == whole(pixels)


def test_frames_of_several_sizes_are_kept_whole() -> None:
    pixels = screen("heart", 0).pixels
    assert content_box([Frame(pixels), Frame(pixels[:-1])]) == whole(pixels)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    spots=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=3),
)
def test_the_box_lies_in_the_image_and_holds_every_labelled_pixel(
    seed: int, size: tuple[int, int], spots: list[tuple[float, float]]
) -> None:
    rng = np.random.default_rng(seed)
    pixels = (rng.integers(0, 256, size) * (rng.random(size) < rng.random())).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    for y, x in spots:
        mask[round(y * (size[0] - 1)), round(x * (size[1] - 1))] = 1
    box = content_box([Frame(pixels)], mask)
    assert box.top >= 0
    assert box.left >= 0
    assert box.top + box.height <= size[0]
    assert box.left + box.width <= size[1]
    assert cut(mask, box).sum() == mask.sum()
    assert box == content_box([Frame(pixels.copy())], mask)


def test_a_box_grows_no_further_than_the_mask() -> None:
    mask = np.zeros((50, 60), np.uint8)
    assert grown(Box(10, 10, 5, 5), mask) == Box(10, 10, 5, 5)
    mask[3, 40] = 2
    assert grown(Box(10, 10, 5, 5), mask) == Box(3, 10, 12, 31)
