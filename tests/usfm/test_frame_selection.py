from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_factory import dicom, movie
from PIL import Image

from usfm.data.readers.decode import read_bytes, read_frames
from usfm.data.readers.frames import FrameSelection, evenly_spaced, to_eight_bits, value_range
from usfm.data.readers.stack import Stack, change_spaced, take

Pixels = npt.NDArray[np.uint8]


def by_change(limit: int) -> FrameSelection:
    return FrameSelection(max_frames=limit, method="change")


def flat(levels: Sequence[float]) -> Iterator[tuple[int, Pixels]]:
    return ((number, np.full((4, 5), level, np.uint8)) for number, level in enumerate(levels))


@given(st.integers(1, 5000), st.integers(1, 64))
def test_evenly_spaced(count: int, limit: int) -> None:
    chosen = evenly_spaced(count, limit)
    assert len(chosen) == min(count, limit)
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    assert all(0 <= number < count for number in chosen)
    if limit > 1:
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_eight_bits() -> None:
    assert to_eight_bits(np.array([-5, 0, 5, 10, 99]), 0, 10).tolist() == [0, 0, 128, 255, 255]
    assert to_eight_bits(np.array([7, 7]), 7, 7).tolist() == [0, 0]
    assert to_eight_bits(np.array([np.nan, -np.inf, np.inf, 1.0]), 0, 2).tolist() == [0, 0, 255, 128]
    assert value_range([np.array([3, 9], np.uint8), np.array([-4], np.int16)]) == (-4, 9)
    assert value_range([np.array([np.nan, 2.0, np.inf])]) == (2, 2)
    assert value_range([np.array([np.nan])]) == (np.inf, -np.inf)


def test_equal_amounts_of_change_pass_between_the_chosen_frames() -> None:
    # still for 50 frames, then ten steps of 20 levels, then still again: by hand
    levels = [0] * 50 + [20 * step for step in range(1, 11)] + [200] * 40
    assert change_spaced(flat(levels), 6) == [0, 51, 53, 55, 57, 59]
    assert change_spaced(flat(levels), 3) == [0, 54, 59]
    assert change_spaced(flat(levels), 1) == [0]
    assert change_spaced(flat(levels), 99) == [0, *range(50, 60)]


def test_a_frozen_clip_gives_one_frame_and_noise_of_the_codec_is_no_change() -> None:
    assert change_spaced(flat([77] * 30), 8) == [0]
    flicker = np.zeros((30, 40, 50), np.uint8)
    flicker[1::2, :10] = 1  # a quarter of the pixels, one level: 0.25 on average
    assert change_spaced(enumerate(flicker), 8) == [0]
    assert change_spaced(flat([]), 8) == []


def test_a_drift_too_slow_to_see_from_frame_to_frame_counts() -> None:
    drift = np.repeat(np.arange(0, 100, dtype=np.uint8), 40).reshape(-1, 4, 10)  # whole levels
    halves = np.zeros((200, 4, 10), np.uint8)
    for number in range(200):  # a tenth of a level per frame
        halves[number].ravel()[: 4 * (number % 10)] = 1
        halves[number] += number // 10
    for frames in (drift, halves):
        chosen = change_spaced(enumerate(frames), 5)
        assert len(chosen) == 5
        assert chosen[0] == 0
        assert max(np.diff(chosen)) - min(np.diff(chosen)) <= 0.1 * len(frames)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=60), st.integers(1, 20))
def test_change_selection_keeps_its_promises(levels: list[int], limit: int) -> None:
    chosen = change_spaced(flat(levels), limit)
    assert chosen == change_spaced(flat(levels), limit)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= limit
    steps = np.abs(np.diff(levels, prepend=levels[0]))
    total = steps.sum()
    if total and limit > 1:  # between two neighbours passes at most one share and one step more
        passed = np.cumsum(steps)[chosen]
        assert max(np.diff([*passed, total]), default=0) <= total / (limit - 1) + steps.max() + 1e-9


def moving(count: int, still: int) -> list[Pixels]:
    """A disc that stands still for `still` frames, then walks."""
    frames = []
    rows, columns = np.mgrid[:64, :96]
    for number in range(count):
        centre = 15 + 3 * max(0, number - still + 1)
        disc = 220 * ((rows - 32) ** 2 + (columns - centre) ** 2 < 150) + 20
        frames.append(np.repeat(disc[..., None], 3, axis=2).astype(np.uint8))
    return frames


def gif(frames: list[Pixels]) -> bytes:
    stream = BytesIO()
    first, *others = (Image.fromarray(frame[..., 0]) for frame in frames)
    first.save(stream, "GIF", save_all=True, append_images=others, optimize=False)
    return stream.getvalue()


@pytest.mark.parametrize("medium", ["clip", "dicom"])
def test_change_works_for_every_medium(medium: str) -> None:
    frames = moving(40, still=20)
    grey = np.stack([frame[..., 0] for frame in frames])
    data = movie(frames) if medium == "clip" else dicom(grey, NumberOfFrames=40)
    chosen = [frame.index for frame in read_bytes(data, selection=by_change(6))]
    assert chosen[0] == 0
    assert 5 <= len(chosen) <= 6
    assert all(number >= 19 for number in chosen[1:])
    assert max(np.diff(chosen[1:])) - min(np.diff(chosen[1:])) <= 2
    assert chosen == [frame.index for frame in read_bytes(data, selection=by_change(6))]
    frozen = movie(frames[:20]) if medium == "clip" else dicom(grey[:20], NumberOfFrames=20)
    assert [frame.index for frame in read_bytes(frozen, selection=by_change(6))] == [0]


def test_change_in_a_gif() -> None:
    frames = moving(30, still=1)
    chosen = [frame.index for frame in read_bytes(gif(frames), selection=by_change(5))]
    assert (len(chosen), chosen[0], chosen[-1]) == (5, 0, 29)


@pytest.mark.parametrize("method", ["uniform", "change"])
def test_frames_pass_one_at_a_time(method: str) -> None:
    alive, most = 0, 0

    class Counted(np.ndarray):  # an array that knows how many of its kind are held
        def __array_finalize__(self, other: object) -> None:
            self.counted = False

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.counted

    def pictures(numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        nonlocal alive, most
        for number in numbers:
            picture = np.full((100, 100, 3), number, np.uint8).view(Counted)
            picture.counted = True
            alive += 1
            most = max(most, alive)
            yield number, picture

    stack = Stack(100, 100, 200, pictures)
    frames = take(stack, FrameSelection(max_frames=4, method=method))
    assert len(frames) == 4
    assert most <= 3


def test_a_frozen_clip_of_the_corpus_gives_one_frame(corpus: Path) -> None:
    path = next((corpus / "itkpocus_eye").rglob("sonosite-anon-eye1-video.mp4"))  # 100 times one picture
    assert [frame.index for frame in read_frames(path, by_change(8))] == [0]
    assert len(read_frames(path, FrameSelection(max_frames=3))) == 3
