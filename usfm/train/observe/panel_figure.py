"""One picture of all panels: a row per organ, a column per stage.

It carries its own dark ground, as ultrasound is read, so it looks the same on a light and on a dark page.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from usfm.train.observe.panels import Panel

__all__ = ["panel_figure"]

Pixels = npt.NDArray[np.uint8]
GROUND, INK, SOFT, WARM = (32, 34, 38), (236, 237, 239), (158, 163, 172), (240, 178, 94)
TILE_PX = 160
GAP_PX = 6
NAME_PX = 150
HEAD_PX = 58
ERROR_TOP = 0.5
"""Grey difference that is drawn brightest."""
COLUMNS = (
    "original", "band-stopped", "encoder sees", "reconstruction", "composite",
    "spectrum", "… stopped", "… reconstructed", "|error|",
)  # fmt: skip


def panel_figure(panels: Sequence[Panel], title: str) -> Pixels:
    """Draw panels, (H, W, 3) uint8.

    Args:
        panels: one per row, at least one.
        title: one line above.
    """
    step = TILE_PX + GAP_PX
    width, height = NAME_PX + len(COLUMNS) * step + GAP_PX, HEAD_PX + len(panels) * step + 24
    picture = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP_PX + 4, 8), title, INK, _font(15, bold=True))
    for column, name in enumerate(COLUMNS):
        draw.text((NAME_PX + column * step + TILE_PX / 2, HEAD_PX - 6), name, SOFT, _font(13), anchor="ms")
    for row, panel in enumerate(panels):
        top = HEAD_PX + row * step
        _name(draw, panel, top)
        for column, tile in enumerate(_tiles(panel)):
            picture.paste(Image.fromarray(tile), (NAME_PX + column * step, top))
    foot = (
        "spectra: log magnitude, zero frequency in the middle, one scale per row    |error|: over all pixels, "
        f"brightest = {ERROR_TOP:g} of the grey range    err: mean over hidden pixels (fill: of the fill alone)"
    )
    draw.text((GAP_PX + 4, height - 8), foot, SOFT, _font(12), anchor="ls")
    return np.asarray(picture)


def _name(draw: ImageDraw.ImageDraw, panel: Panel, top: int) -> None:
    draw.text((GAP_PX + 4, top + 4), panel.organ.replace("_", " "), INK, _font(15, bold=True))
    where = ("seen in training", WARM) if panel.seen else (f"{panel.split} split", SOFT)
    lines = (
        where,
        (f"err {panel.error:.3f}", INK),
        (f"fill {panel.error_fill:.3f}", SOFT),
        ("bands out: " + (", ".join(map(str, panel.bands)) or "none"), SOFT),
    )
    for n, (text, colour) in enumerate(lines):
        draw.text((GAP_PX + 4, top + 28 + 19 * n), _fit(text), colour, _font(13))


def _fit(text: str) -> str:
    """Cut a line that would run into the first image."""
    while _font(13).getlength(text) > NAME_PX - GAP_PX - 8:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _tiles(panel: Panel) -> list[Pixels]:
    error = np.abs(panel.reconstruction - panel.original) / ERROR_TOP
    grey = (panel.original, panel.stopped, panel.masked, panel.reconstruction, panel.composite)
    heat = (panel.spectrum, panel.spectrum_stopped, panel.spectrum_reconstruction, error)
    return [np.repeat(_tile(x)[..., None], 3, axis=2) for x in grey] + [_heat(_tile(x)) for x in heat]


def _tile(values: npt.NDArray[np.float32]) -> Pixels:
    """(S, S) about [0, 1] to (TILE_PX, TILE_PX) uint8; small images keep their pixels visible."""
    levels = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    how = cv2.INTER_NEAREST if len(levels) < TILE_PX else cv2.INTER_AREA
    return cv2.resize(levels, (TILE_PX, TILE_PX), interpolation=how)  # type: ignore[no-any-return]


def _heat(levels: Pixels) -> Pixels:
    coloured: Pixels = matplotlib.colormaps["inferno"](levels, bytes=True)[..., :3]
    return np.ascontiguousarray(coloured)


@lru_cache(maxsize=8)
def _font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size_px)
