"""Simulated scanner screens: a picture at a known place, with menus, a logo, a grey bar and a ruler around it."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from usfm.data.b_mode import b_mode
from usfm.data.phantoms import ORGANS
from usfm.data.readers.frames import Box
from usfm.rng import generator

Pixels = npt.NDArray[np.uint8]
SIZE = (600, 800)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Screen:
    """A screen shot and where its picture lies; `lit` is what the picture shows, in the screen's pixels."""

    pixels: Pixels
    picture: Box
    lit: npt.NDArray[np.bool_]


def picture(organ: str, seed: int, side: int = 256) -> Pixels:
    """A simulated B-mode image without anything drawn on it, (side, side)."""
    phantom = ORGANS[organ](generator(seed, "phantom", organ, 0), "", 0.0)
    pixels = b_mode(phantom, generator(seed, "speckle", organ, 0))
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def screen(organ: str, seed: int, ground: int = 0) -> Screen:
    """A picture of about 400 px on a screen of 800 x 600; `ground` is the level of the screen's panel."""
    rng = np.random.default_rng(seed)
    inner = picture(organ, seed, int(rng.integers(360, 430)))
    side = len(inner)
    top, left = int(rng.integers(60, SIZE[0] - side - 60)), int(rng.integers(150, SIZE[1] - side - 150))
    pixels = np.full(SIZE, ground, np.uint8)
    pixels[top : top + side, left : left + side] = inner
    lit = np.zeros(SIZE, bool)
    lit[top : top + side, left : left + side] = inner > 8
    for line, text in enumerate(("Gn 36", "232dB/C4", "F 5.0", "Map 1", "FR 20Hz")):
        cv2.putText(pixels, text, (8, 120 + 22 * line), FONT, 0.5, 235, 1, cv2.LINE_AA)
    cv2.putText(pixels, "ST. NOWHERE   03/15/21  06:32", (20, 24), FONT, 0.55, 255, 1, cv2.LINE_AA)
    cv2.putText(pixels, "MI 0.6  TIs 0.1", (560, 24), FONT, 0.5, 255, 1, cv2.LINE_AA)
    pixels[120:300, 770:782] = np.linspace(255, 0, 180).astype(np.uint8)[:, None]
    for tick in range(top, top + side, 20):
        cv2.line(pixels, (left + side + 40, tick), (left + side + 46, tick), 220, 1)
    cv2.rectangle(pixels, (14, 540), (110, 580), 180, 1)
    return Screen(pixels, Box(top, left, side, side), lit)
