"""Digital phantoms: the echo strength of nine organs, drawn at random, with the masks of their structures."""

from collections.abc import Callable

import cv2
import numpy as np

from usfm.data.b_mode import SIDE, Grid, Phantom, axes

__all__ = ["ORGANS"]


def _ellipse(cy: float, cx: float, ry: float, rx: float, turn: float = 0.0) -> Grid:
    """Distance from the centre in units of the radius: 1 on the ellipse, smaller inside."""
    y, x = axes()
    dy, dx = y - cy, x - cx
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    distance: Grid = np.hypot((dy * c - dx * s) / ry, (dy * s + dx * c) / rx)
    return distance


def _texture(rng: np.random.Generator, size: float, depth: float) -> Grid:
    """Smooth multiplicative variation around 1: patches of `size` pixels, `depth` nepers."""
    smooth = _smooth(rng, size)
    texture: Grid = np.exp(depth * smooth / max(float(smooth.std()), 1e-6))
    return texture


def _smooth(rng: np.random.Generator, size: float) -> Grid:
    """Gaussian noise of `size` pixels; coarse noise is drawn on a coarse grid, which is 10 times faster."""
    step = max(1, int(size) // 2)
    coarse = rng.standard_normal((SIDE // step, SIDE // step)).astype(np.float32)
    blurred = cv2.GaussianBlur(coarse, (0, 0), size / step)
    noise: Grid = cv2.resize(blurred, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return noise


def _line(offset: Grid, width: float) -> Grid:
    """A soft line where `offset` is 0."""
    line: Grid = np.exp(-((offset / width) ** 2))
    return line


def _layers(rng: np.random.Generator, above: float) -> Grid:
    """Skin, fat and fasciae of a linear probe's image, down to the depth `above`."""
    y, x = axes()
    echo = 0.12 * _texture(rng, 12, 0.4) + 1.5 * _line(y, 0.02)
    for at in rng.uniform(0.06, above, 4):
        wave = 0.012 * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * x + rng.uniform()))
        echo += rng.uniform(0.4, 1.2) * _line(y - at - wave, 0.006)
    return echo


def fetal_head(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """A skull ellipse, bright where the beam meets it head-on, with midline and ventricles."""
    turn = rng.uniform(-0.5, 0.5)
    cy, cx, ry = rng.uniform(0.45, 0.58), rng.uniform(0.43, 0.57), rng.uniform(0.17, 0.27)
    rx = ry * rng.uniform(1.2, 1.4)
    d = _ellipse(cy, cx, ry, rx, turn)
    y, x = axes()
    echo = 0.25 * _texture(rng, 10, 0.6)
    echo[(d > 1) & (d < rng.uniform(1.15, 1.4))] = 0.01  # amniotic fluid
    inside = d < 1
    echo[inside] = (0.06 * _texture(rng, 6, 0.4))[inside]
    facing = 0.3 + np.abs((y - cy) / ry) ** 2
    echo += 6 * facing * _line(d - 1, 0.06)
    across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    echo += 1.0 * inside * (d < 0.85) * _line(across, 0.008)
    for side in (-1, 1):
        ventricle = _ellipse(cy + side * 0.35 * ry, cx + 0.2 * rx, 0.12 * ry, 0.35 * rx, turn)
        echo[ventricle < 1] = 0.01
    semi = sorted((ry, rx))
    h = ((semi[1] - semi[0]) / (semi[1] + semi[0])) ** 2
    around = np.pi * (semi[0] + semi[1]) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan
    return Phantom(echo, (d <= 1).astype(np.uint8), label=f"{around * (SIDE - 1):.4f}")


def heart(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """Apical view of chambers; "4CH" adds the right heart, "ES" has a smaller ventricle and thicker wall."""
    systole = label.endswith("ES")
    cx = rng.uniform(0.46, 0.54) + (0.08 if label.startswith("4CH") else 0)
    ry, rx = rng.uniform(0.23, 0.27), rng.uniform(0.10, 0.13)
    inner = 0.72 if systole else 1.0
    turn = rng.uniform(-0.12, 0.12)
    y, _ = axes()
    echo = 0.15 * _texture(rng, 8, 0.5)
    wall = _ellipse(0.42, cx, ry + 0.06, rx + 0.055, turn)
    cavity = _ellipse(0.42, cx, ry * inner, rx * inner, turn)
    atrium = _ellipse(0.82, cx, 0.11, 0.11 * (1.15 if systole else 0.9))
    echo[wall < 1] = (0.8 * _texture(rng, 5, 0.3))[wall < 1]
    if label.startswith("4CH"):
        right = np.minimum(_ellipse(0.46, cx - 0.23, ry * 0.8, rx * 0.75), _ellipse(0.82, cx - 0.22, 0.1, 0.09))
        echo[right < 1.18] = 0.5
        echo[right < 1] = 0.006
    echo[atrium < 1.12] = 0.6
    echo[cavity < 1] = 0.006
    echo[atrium < 1] = 0.006
    echo += 1.5 * _line(y - 0.69, 0.01) * (np.abs(axes()[1] - cx) < rx)  # mitral leaflets
    mask = ((wall < 1) | (atrium < 1)).astype(np.uint8)
    return Phantom(echo, mask, sector=True)


def lung(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """Pleural line with A-lines (regular), B-lines (covid, viral) or a consolidation (bacterial)."""
    y, x = axes()
    pleura = rng.uniform(0.16, 0.26)
    sway = 0.01 * np.sin(2 * np.pi * phase)
    echo = np.where(y < pleura, _layers(rng, pleura), 0.004 * _texture(rng, 15, 0.5))
    rough = 0.0 if label == "regular" else 0.006 * np.sin(2 * np.pi * (rng.uniform(3, 6) * x + phase))
    echo += 5 * _line(y - pleura - rough, 0.01)
    below = y > pleura
    if label == "regular":
        for k in (2, 3, 4):
            echo += 3.0 * 0.4 ** (k - 2) * _line(y - k * pleura, 0.012)
    if label in ("covid", "viral pneumonia"):
        many = int(rng.integers(4, 7)) if label == "covid" else int(rng.integers(1, 3))
        for at in rng.uniform(0.12, 0.88, many):
            width = rng.uniform(0.015, 0.05) * (0.5 + y)
            echo += below * rng.uniform(0.6, 1.5) * _line(x - at - sway, 1.0) * _line((x - at - sway) / width, 1.0)
    if label in ("bacterial pneumonia", "viral pneumonia"):
        big = 1.0 if label.startswith("bacterial") else 0.3
        cx = rng.uniform(0.3, 0.7) + sway
        patch = _ellipse(pleura + 0.22 * big, cx, 0.26 * big, 0.3 * big) / _texture(rng, 12, 0.12)
        echo = np.where(below & (patch < 1), 0.2 * _texture(rng, 6, 0.5), echo)
        for _ in range(int(14 * big)):
            spot = _ellipse(pleura + big * rng.uniform(0.05, 0.4), cx + big * rng.uniform(-0.2, 0.2), 0.008, 0.02)
            echo = echo + below * 4.0 * _line(spot, 1.0)
    return Phantom(echo.astype(np.float32), sector=bool(rng.integers(2)))


def breast(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """A lesion: smooth, wide and bright behind (benign), or spiculated, tall and in its own shadow (malignant)."""
    y, x = axes()
    echo = _layers(rng, 0.3) + np.where(y > 0.25, 0.35 * _texture(rng, 7, 0.6), 0)
    cy, cx, r = rng.uniform(0.4, 0.55), rng.uniform(0.35, 0.65), rng.uniform(0.09, 0.17)
    bad = label == "malignant"
    d = _ellipse(cy, cx, r * (1.15 if bad else 0.65), r * (0.85 if bad else 1.15), rng.uniform(-0.2, 0.2))
    if bad:
        angle = np.arctan2(y - cy, x - cx)
        d = d / sum((0.09 * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (3, 5, 8, 11)), start=np.float32(1))
    behind = (y > cy) * _line((x - cx) / r, 0.8)
    echo *= 1 - 0.85 * behind if bad else 1 + 1.5 * behind
    echo[d < 1] = (0.03 * _texture(rng, 5, 0.5))[d < 1]
    echo += (0.5 if bad else 1.2) * _line(d - 1, 0.05)
    return Phantom(echo, np.where(d < 1, 2 if bad else 1, 0).astype(np.uint8))


def muscle(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """Oblique fascicles between two aponeuroses."""
    y, x = axes()
    top, bottom, slope = rng.uniform(0.12, 0.2), rng.uniform(0.6, 0.8), rng.uniform(0.15, 0.45)
    ripple = _smooth(rng, 20) * 0.02
    stripes = np.maximum(np.sin(2 * np.pi * rng.uniform(12, 18) * (y - slope * x + ripple)), 0) ** 4
    fibres = 0.05 + 0.9 * stripes * _texture(rng, 8, 0.5)
    echo = np.where((y > top) & (y < bottom), fibres, _layers(rng, top))
    for at in (top, bottom):
        echo += 4 * _line(y - at - 0.01 * np.sin(3 * x + at), 0.01)
    return Phantom(echo.astype(np.float32))


def kidney(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """Dark cortex around a bright sinus; "stone" has a bright spot with a shadow."""
    y, x = axes()
    cy, cx, turn = rng.uniform(0.48, 0.56), rng.uniform(0.46, 0.54), rng.uniform(-0.3, 0.3)
    d, sinus = _ellipse(cy, cx, 0.17, 0.3, turn), _ellipse(cy, cx, 0.07, 0.19, turn)
    echo = 0.4 * _texture(rng, 9, 0.4)
    echo[d < 1] = (0.1 * _texture(rng, 6, 0.4))[d < 1]
    echo[sinus < 1] = (1.2 * _texture(rng, 5, 0.6))[sinus < 1]
    echo += 2 * _line(d - 1, 0.04)
    if label == "stone":
        sx = cx + rng.uniform(-0.1, 0.1)
        echo *= 1 - 0.95 * (y > cy) * _line((x - sx) / 0.03, 1.0)
        echo += 10 * _line(_ellipse(cy, sx, 0.015, 0.025), 1.0)
    return Phantom(echo, sector=True)


def liver(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """Even tissue with dark vessels above the bright diaphragm."""
    y, _ = axes()
    echo = 0.45 * _texture(rng, 14, 0.2)
    for _ in range(int(rng.integers(3, 7))):
        at = rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.75) + 0.01 * phase
        vessel = _ellipse(*at, rng.uniform(0.012, 0.03), rng.uniform(0.03, 0.09), rng.uniform(-1, 1))
        echo[vessel < 1] = 0.008
        echo += 0.6 * _line(vessel - 1, 0.15)
    arc = _ellipse(0.15, 0.5, rng.uniform(0.66, 0.74) + 0.01 * phase, 0.75)
    echo = np.where((arc > 1) & (y > 0.4), 0.1, echo) + 6 * _line(arc - 1, 0.015) * (y > 0.4)
    return Phantom(echo.astype(np.float32), sector=True)


def nerve(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """A honeycombed bright nerve (class 1) beside a dark vessel (class 2)."""
    echo = _layers(rng, 0.35)
    cy, cx = rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.7)
    away = rng.choice([-1, 1]) * rng.uniform(0.17, 0.24)
    bundle = _ellipse(cy, cx, rng.uniform(0.05, 0.08), rng.uniform(0.09, 0.13), rng.uniform(-0.3, 0.3))
    vessel = _ellipse(cy + rng.uniform(-0.03, 0.08), cx + away, rng.uniform(0.05, 0.08), rng.uniform(0.06, 0.08))
    echo[bundle < 1] = (1.2 * _texture(rng, 2.5, 0.9))[bundle < 1]
    echo[vessel < 1] = 0.006
    echo += 1.5 * _line(vessel - 1, 0.12)
    return Phantom(echo, np.where(vessel < 1, 2, np.where(bundle < 1, 1, 0)).astype(np.uint8))


def carotid(rng: np.random.Generator, label: str, phase: float) -> Phantom:
    """A round dark lumen with bright walls, brightest above and below."""
    y, _ = axes()
    cy, r = rng.uniform(0.4, 0.55), rng.uniform(0.08, 0.12)
    d = _ellipse(cy, rng.uniform(0.4, 0.6), r, r * rng.uniform(0.95, 1.1))
    echo = _layers(rng, 0.3) + np.where(y > 0.2, 0.2 * _texture(rng, 8, 0.6), 0)
    echo[d < 1] = 0.004
    echo += 4 * np.abs((y - cy) / r) * _line(d - 1.05, 0.08)
    return Phantom(echo, (d < 1).astype(np.uint8))


ORGANS: dict[str, Callable[[np.random.Generator, str, float], Phantom]] = {
    "breast": breast,
    "carotid": carotid,
    "fetal_head": fetal_head,
    "heart": heart,
    "kidney": kidney,
    "liver": liver,
    "lung": lung,
    "muscle": muscle,
    "nerve": nerve,
}
