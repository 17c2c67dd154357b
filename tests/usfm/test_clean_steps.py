from dataclasses import replace

import numpy as np
import pytest
from screen_factory import screen

from usfm.data.cleaning.clean import clean, cut
from usfm.data.cleaning.config import CleanConfig, prepared_as
from usfm.data.cleaning.flags import change, doppler_share
from usfm.data.readers.frames import Frame
from usfm.data.schema import FLAGS

OFF = CleanConfig(crop=False, text="off", doppler="off", frozen="off", blank="off")
SHOWN = screen("heart", 0)


def clip() -> list[Frame]:
    """Four frames: a picture, the same with a codec's noise, another one, and nothing."""
    first = SHOWN.pixels
    noisy = np.clip(first.astype(int) + (np.random.default_rng(0).random(first.shape) < 0.1), 0, 255)
    other = screen("heart", 0).pixels
    other[200:400, 300:500] = np.random.default_rng(1).integers(0, 200, (200, 200))
    frames = [first, noisy.astype(np.uint8), other, np.full_like(first, 3)]
    return [Frame(pixels, 10 * index) for index, pixels in enumerate(frames)]


def flow(share: float) -> Frame:
    """A frame of which a share of the picture is coloured."""
    chroma = np.zeros_like(SHOWN.pixels)
    box = SHOWN.picture
    side = round((share * box.height * box.width) ** 0.5)
    chroma[box.top + 50 : box.top + 50 + side, box.left + 50 : box.left + 50 + side] = 200
    return Frame(SHOWN.pixels, chroma=chroma)


def test_with_every_step_off_nothing_changes() -> None:
    frames = [*clip(), replace(flow(0.1), burned_in=False)]
    for frame, cleaned in zip(frames, clean(frames, OFF), strict=True):
        assert np.array_equal(cleaned.pixels, frame.pixels)
        assert cleaned.box == (0, 0, 600, 800)
        assert (cleaned.drawn, cleaned.painted, cleaned.flags, cleaned.refusal) == (None, False, (), "")


def test_each_frame_is_refused_with_its_reason() -> None:
    kept, frozen, moved, blank = clean(clip(), CleanConfig())
    assert (kept.refusal, moved.refusal) == ("", "")
    assert frozen.refusal == "frozen: the same picture as frame 0 (clean.frozen)"
    assert blank.refusal == "blank frame: grey levels have a standard deviation of 0.00, below 2"
    assert len({kept.box, frozen.box, moved.box, blank.box}) == 1


def test_frozen_frames_can_be_flagged_or_left() -> None:
    frames = clip()[:3]
    assert ["frozen" in c.flags for c in clean(frames, CleanConfig(frozen="flag"))] == [False, True, False]
    assert ["frozen" in c.flags for c in clean(frames, CleanConfig(frozen="off"))] == [False] * 3
    assert not any(c.refusal for c in clean(frames, CleanConfig(frozen="flag")))


def test_a_still_clip_leaves_its_first_frame() -> None:
    frames = [Frame(SHOWN.pixels, index) for index in range(5)]
    assert [bool(c.refusal) for c in clean(frames, CleanConfig())] == [False, True, True, True, True]


@pytest.mark.parametrize(("share", "found"), [(0.0, False), (0.003, False), (0.05, True)])
def test_doppler_is_flagged_or_dropped_by_its_share(share: float, found: bool) -> None:
    frame = flow(share)
    assert doppler_share(cut(frame.chroma, SHOWN.picture)) == pytest.approx(share, rel=0.1)
    (flagged,), (dropped,) = clean([frame], CleanConfig()), clean([frame], CleanConfig(doppler="drop"))
    assert ("doppler" in flagged.flags) == found
    assert flagged.refusal == ""
    assert dropped.refusal.startswith("Doppler: ") == found
    assert "doppler" not in clean([frame], CleanConfig(doppler="off"))[0].flags


def test_text_is_noted_or_painted_over() -> None:
    burned = SHOWN.pixels.copy()
    box = SHOWN.picture
    letters = np.zeros_like(burned)
    for number in range(6):
        column = box.left + 120 + 14 * number
        letters[box.top + 200 : box.top + 212, column : column + 2] = 255
        letters[box.top + 200 : box.top + 202, column : column + 8] = 255
    burned = np.maximum(burned, letters)
    (flagged,) = clean([Frame(burned)], CleanConfig(text="flag"))
    (masked,) = clean([Frame(burned)], CleanConfig())
    (plain,) = clean([Frame(burned)], CleanConfig(text="off"))
    assert flagged.flags == masked.flags == ("text",)
    assert plain.flags == ()
    assert np.array_equal(flagged.pixels, plain.pixels)
    assert (flagged.painted, masked.painted, plain.painted) == (False, True, False)
    assert masked.drawn is not None
    assert masked.drawn[cut(letters, masked.box) > 0].mean() >= 0.9
    assert np.array_equal(masked.pixels[~masked.drawn], plain.pixels[~masked.drawn])
    assert masked.pixels[masked.drawn].mean() < plain.pixels[masked.drawn].mean() - 50


def test_what_the_file_states_is_passed_on() -> None:
    (cleaned,) = clean([Frame(SHOWN.pixels, burned_in=True)], OFF)
    assert cleaned.flags == ("burned_in_stated",)


def test_flags_are_those_of_the_schema_in_order() -> None:
    frame = replace(flow(0.05), burned_in=True)
    config = CleanConfig(frozen="flag")
    for cleaned in clean([frame, replace(frame, index=1)], config):
        assert set(cleaned.flags) <= set(FLAGS)
        assert list(cleaned.flags) == sorted(cleaned.flags)


def test_frames_of_several_sizes_are_cleaned_one_by_one() -> None:
    small = Frame(np.ascontiguousarray(SHOWN.pixels[:, :700]), 1)
    together = clean([Frame(SHOWN.pixels), small], CleanConfig())
    for cleaned, alone in zip(together, [Frame(SHOWN.pixels), small], strict=True):
        assert np.array_equal(cleaned.pixels, clean([alone], CleanConfig())[0].pixels)


def test_equal_frames_are_cleaned_equally() -> None:
    one, other = clean(clip(), CleanConfig()), clean(clip(), CleanConfig())
    assert [(c.box, c.flags, c.refusal) for c in one] == [(c.box, c.flags, c.refusal) for c in other]
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


def test_change_is_the_mean_difference_of_what_is_lit() -> None:
    first, second = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    first[:2], second[:2] = 100, 104
    assert change(first, second) == change(second, first) == 4.0
    assert change(first * 0, second * 0) == 0.0


def test_shards_say_how_their_images_were_made() -> None:
    config = CleanConfig(text="flag")
    assert prepared_as({"clean": config.model_dump(), "longest_side_px": 192}) == {
        "clean": config,
        "stored_px": 192,
    }
    assert prepared_as({}) == {"clean": None, "stored_px": None}
