"""The data card of a set of shards: one self-contained HTML page, and the same numbers as JSON.

Every row is counted, from the small columns alone; pictures are decoded for a seeded sample only, and the page
says so. What is not known is said.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from pydantic import Field
from upath import UPath

from usfm.config import Config
from usfm.data.codec import decode_grey
from usfm.data.ledger import licence_flags
from usfm.data.location import locate, write_bytes
from usfm.data.schema import FLAGS, SPLITS
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.masking.frequency import BandStopConfig
from usfm.report.data_counts import count_rows
from usfm.report.data_document import card_document
from usfm.report.data_figures import grey_chart, organ_chart, spectrum_chart
from usfm.report.data_pixels import SPECTRUM_PX, PixelNumbers, pixel_numbers
from usfm.report.data_sample import Place, by_organ, draw_rows, read_rows, varied_rows
from usfm.report.pictures import file_uri
from usfm.report.template import count, percent, render

__all__ = ["CARD_HTML", "CARD_JSON", "CardConfig", "Progress", "build_data_card"]

CARD_HTML, CARD_JSON = "data_card.html", "data_card.json"
PICTURE_PX, PICTURE_QUALITY = 176, 82
Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], object]]]
"""Stage name, total and unit -> a context that gives the function to call with each finished number."""


class CardConfig(Config):
    """How much a data card looks at and lists.

    Attributes:
        images_per_organ: sampled for grey levels and spectra; counts are always over all rows.
        sheet_images: on the contact sheet of each organ.
        quarantine_lines: refusals listed on the page; the whole table lies beside the shards.
        seed: of both draws.
        cache: where shards of an object store are kept while pictures are read from them.
    """

    images_per_organ: int = Field(default=200, ge=1)
    sheet_images: int = Field(default=15, ge=1)
    quarantine_lines: int = Field(default=200, ge=0)
    seed: int = 0
    cache: CacheConfig = CacheConfig()


@dataclass(frozen=True)
class _Picture:
    """A stored image on the page, and the row it is from."""

    uri: str
    row: dict[str, Any]


def build_data_card(
    shards: str | os.PathLike[str],
    config: CardConfig,
    output: str | os.PathLike[str] = "",
    progress: Progress = lambda name, total, unit: nullcontext(lambda done: None),
) -> UPath:
    """Write `data_card.html` and `data_card.json` into `output` ("" = `card` beside the shards).

    Returns:
        The page's location.

    Raises:
        ShardError: no shards there, or damaged ones.
    """
    reader = ShardReader(shards, config.cache)
    index = reader.index
    with progress("count", sum(file.rows for file in index.files), "rows") as advance:
        counts = count_rows(index, advance)
    radii = BandStopConfig().radii(SPECTRUM_PX)
    organs = by_organ(index.files)
    pixels: dict[str, PixelNumbers] = {}
    sheets: dict[str, list[_Picture]] = {}
    with progress("pictures", len(organs), "organs") as advance:
        for organ, files in organs.items():
            drawn = draw_rows(files, config.images_per_organ, config.seed, "data card", organ)
            images = (decode_grey(row["image"]) for row in read_rows(reader, drawn, ("image",)))
            pixels[organ] = pixel_numbers(images, radii)
            shown = varied_rows(reader, files, config.sheet_images, config.seed, "contact sheet", organ)
            sheets[organ] = list(_pictures(reader, shown))
            advance(1)
    document = card_document(index, counts, pixels, radii, config.seed, config.quarantine_lines)
    worst = {
        name: list(_pictures(reader, ((path, row) for _, path, row in rows.ordered())))
        for name, rows in (("painted", counts.text_rows), ("unpainted", counts.unpainted_rows))
    }
    page = render(
        "data_card.html",
        card=document,
        config=config,
        sheets=sheets,
        worst=worst,
        splits=SPLITS,
        flag_meanings=FLAGS,
        licence_flags=licence_flags,
        gaps=_gaps(document),
        organ_chart=organ_chart(document["organs"], SPLITS) if organs else "",
        charts=_charts(document),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    folder = locate(output) if output else index.root / "card"
    write_bytes(folder / CARD_JSON, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(folder / CARD_HTML, page.encode())
    return folder / CARD_HTML


def _pictures(reader: ShardReader, places: Iterable[Place]) -> Iterator[_Picture]:
    columns = (
        "image",
        "id",
        "source",
        "device",
        "licence",
        "split",
        "label",
        "height",
        "width",
        "text_px",
        "flags",
    )
    for row in read_rows(reader, places, columns):
        pixels = decode_grey(row.pop("image"))
        scale = PICTURE_PX / max(pixels.shape)
        if scale < 1:
            size = (max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0])))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        coded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])[1]
        yield _Picture(file_uri(coded.tobytes()), row)


def _charts(document: dict[str, Any]) -> dict[str, tuple[Markup, Markup]]:
    """Grey-level and spectrum chart by organ; all spectra on one scale."""
    pixels = {organ: of["pixels"] for organ, of in document["organs"].items() if of["pixels"]}
    if not pixels:
        return {}
    reference = np.mean([of["power_db"] for of in pixels.values()], axis=0)
    low = min(min(of["power_db"]) for of in pixels.values())
    high = max(max(of["power_high_db"]) for of in pixels.values())
    limits = (10 * np.floor(low / 10), 10 * np.ceil(high / 10))
    radii = document["bands"]["radii_cycles"]
    return {
        organ: (grey_chart(organ, of), spectrum_chart(organ, of, reference, radii, limits))
        for organ, of in pixels.items()
    }


def _gaps(document: dict[str, Any]) -> list[str]:
    """Sentences that say what is not known of these images, or wrong with them, for the top of the page."""
    rows, unknown = document["rows"], document["unknown"]
    said = {
        "device": "The scanner is not stated for {}: nothing can be said of how these images spread over devices",
        "spacing": "The pixel spacing is not known for {}: sizes in mm cannot be had from them",
        "group": "The patient or clip is not known for {}: whether one patient's images lie in two splits cannot "
        "be told for them",
        "licence": "The licence is not stated for {}: do not pass them on, nor a model trained on them, before it "
        "is",
    }
    gaps = [text.format(_share(unknown[name], rows)) for name, text in said.items() if unknown[name]]
    organs = document["organs"]
    if single := [organ for organ, of in organs.items() if len(of["sources"]) == 1]:
        gaps.append(f"{len(single)} of {len(organs)} organs come from one source alone: {', '.join(single)}")
    if untrained := [organ for organ, of in organs.items() if not of["splits"]["train"]]:
        gaps.append(f"No training images of {', '.join(untrained)}")
    if document["privacy"]["text_report_lines"] is None:
        gaps.append("There is no report of burned-in text beside the shards")
    if document["quarantine"] is None:
        gaps.append("There is no quarantine table beside the shards: what was refused is not known")
    if not document["contamination"]:
        gaps.append("No benchmark list was looked for in these shards (usfm data contamination)")
    gaps += [
        f"{count(found['train_rows'])} training images are in the benchmark {found['name']}; scores on it mean "
        "nothing"
        for found in document["contamination"]
        if found["current"] and found["train_rows"]
    ]
    return gaps


def _share(part: int, whole: int) -> str:
    return "all images" if part == whole else f"{count(part)} of {count(whole)} images ({percent(part / whole)})"
