"""Annotated polygons of four data sets, read from their own files and filled to class numbers.

Coordinates are (x, y) in px with pixel centres at whole numbers, as annotation tools store a click on a pixel. A
pixel belongs to a shape when its centre lies inside, so that areas are right on average; what lies outside the
image is cut off. (OpenCV's fillPoly adds the outline, and is up to 3.5 px wrong for polygons that leave the image.)
"""

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from usfm.data.readers.frames import check_size
from usfm.errors import UnreadableFile

__all__ = ["ddti_polygons", "echonet_tracings", "fill", "json_polygon", "kidneyus_regions", "tracing_outline"]

Points = npt.NDArray[np.float64]


def fill(shapes: Sequence[tuple[int, Points]], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Fill polygons; a later one lies over an earlier one.

    Args:
        shapes: class number and (n, 2) corners (x, y) of each polygon. Shapes of fewer than three corners are
            stray clicks of an annotator and are passed over, as long as one polygon remains.
        size: height and width of the image.

    Returns:
        (H, W) uint8 class numbers.

    Raises:
        UnreadableFile: no polygon, a corner that is no number, or nothing inside the image.
    """
    height, width = size
    check_size(width, height)
    if not shapes:
        raise UnreadableFile("no polygon is drawn for this image")
    polygons = [(number, points) for number, points in shapes if len(points) >= 3]
    if not polygons:
        corners = max(len(points) for _, points in shapes)
        raise UnreadableFile(f"the polygon has {corners} corners; at least 3 are needed")
    mask = np.zeros(size, np.uint8)
    for number, points in polygons:
        if not np.isfinite(points).all():
            raise UnreadableFile("a corner of the polygon is not a number")
        mask[_inside(points, size)] = number
    if not mask.any():
        raise UnreadableFile(f"the polygons hold no pixel of the image, which has {width} x {height}")
    return mask


def json_polygon(data: bytes) -> Points:
    """One polygon of a JSON file `[[x, y], ...]` (Annotated Ultrasound Liver).

    Raises:
        UnreadableFile: no JSON, or no list of pairs of numbers.
    """
    return _points(_json(data))


def ddti_polygons(data: bytes, image: int | None) -> list[Points]:
    """Polygons of one image of a DDTI case file.

    The XML holds one `<mark>` per image, with `<image>` (its number) and `<svg>`, whose text is JSON:
    `[{"points": [{"x": 1, "y": 2}, ...], "annotation": null, "regionType": "freehand"}, ...]`.

    Args:
        data: the XML file.
        image: the number of the image in its case; None = the case has only one.

    Raises:
        UnreadableFile: no XML, several images and no number, or no polygon.
    """
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise UnreadableFile(f"the polygons' file is not XML: {error}") from None
    marks: dict[int, list[str]] = {}
    for mark in root.iter("mark"):
        marks.setdefault(_number(mark.findtext("image")), []).append((mark.findtext("svg") or "").strip())
    if image is None and len(marks) > 1:
        raise UnreadableFile(f"the file marks the images {sorted(marks)}; say which one: mask_kind with image=<n>")
    texts = [text for text in marks.get(image or min(marks, default=1), []) if text]
    if not texts:
        raise UnreadableFile(f"the file marks no polygon for image {image or 1}; it has {sorted(marks) or 'none'}")
    regions: list[Any] = []
    for text in texts:
        parsed = _json(text.encode())
        if not isinstance(parsed, list) or not all(isinstance(region, dict) for region in parsed):
            raise UnreadableFile("the <svg> element holds no list of regions")
        regions += parsed
    return [_points([(p["x"], p["y"]) for p in _pairs(region)]) for region in regions]


@lru_cache(maxsize=4)
def kidneyus_regions(data: bytes) -> dict[str, list[tuple[str, Points]]]:
    """Regions by image file, (anatomy in lower case, polygon), of an Open Kidney table (VGG Image Annotator CSV).

    Columns that are read: filename, region_shape_attributes `{"name": "polygon", "all_points_x": [...],
    "all_points_y": [...]}` and region_attributes `{"Anatomy": "Capsule"}`. Other shapes are passed over.
    The table is parsed once per process.

    Raises:
        UnreadableFile: no such table.
    """
    needed = ("filename", "region_shape_attributes", "region_attributes")
    found: dict[str, list[tuple[str, Points]]] = {}
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        _require_columns(needed, reader.fieldnames or ())
        for line, row in enumerate(reader, 2):
            try:
                shape, anatomy = (json.loads(row[name] or "{}") for name in needed[1:])
                regions = found.setdefault(row["filename"], [])
                if shape.get("name") == "polygon":
                    corners = _points(list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)))
                    regions.append((str(anatomy.get("Anatomy", "")).strip().lower(), corners))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise UnreadableFile(f"line {line} of the polygons' table cannot be read: {error!r}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(f"the polygons' table is not a CSV text file in UTF-8: {error}") from None
    return found


@lru_cache(maxsize=4)
def echonet_tracings(data: bytes) -> dict[str, dict[int, Points]]:
    """Tracings by video and frame number, (n, 4) rows X1, Y1, X2, Y2, of EchoNet-Dynamic's VolumeTracings.csv.

    Columns: FileName, X1, Y1, X2, Y2, Frame. The table is parsed once per process (425,000 rows).

    Raises:
        UnreadableFile: no such table.
    """
    columns = ("X1", "Y1", "X2", "Y2")
    types = {"FileName": pa.string(), "Frame": pa.int64(), **dict.fromkeys(columns, pa.float64())}
    try:
        # a header without line break counts as empty there
        table = pa.csv.read_csv(
            pa.BufferReader(data + b"\n"), convert_options=pa.csv.ConvertOptions(column_types=types)
        )
    except pa.ArrowInvalid as error:
        raise UnreadableFile(f"the tracings' table is not a CSV file as expected: {error}") from None
    _require_columns(types, table.column_names)
    if table.num_rows == 0:
        return {}
    names = table["FileName"].combine_chunks().dictionary_encode()
    frames = table["Frame"].to_numpy()
    rows = np.stack([table[name].to_numpy() for name in columns], axis=1)
    codes = names.indices.to_numpy(zero_copy_only=False)
    order = np.lexsort((frames, codes))  # stable: the rows of one tracing keep their order
    cuts = np.flatnonzero((np.diff(codes[order]) != 0) | (np.diff(frames[order]) != 0)) + 1
    found: dict[str, dict[int, Points]] = {}
    for part in np.split(order, cuts):
        name, frame = names.dictionary[codes[part[0]]].as_py(), int(frames[part[0]])
        found.setdefault(name, {})[frame] = rows[part]
    return found


def tracing_outline(tracing: Points) -> Points:
    """The ventricle's outline from its tracing: up one end of the chords, down the other.

    Args:
        tracing: (n, 4) X1, Y1, X2, Y2; the first row is the long axis, the others are chords in order.

    Raises:
        UnreadableFile: fewer than two chords.
    """
    if len(tracing) < 3:
        raise UnreadableFile(f"the tracing has {max(0, len(tracing) - 1)} chords; at least 2 are needed")
    chords = tracing[1:]
    return np.concatenate([chords[:, :2], chords[::-1, 2:]])


def _inside(points: Points, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Even-odd rule at pixel centres: an odd number of edges lies to the left of a pixel, or on it.

    Args:
        points: (n, 2) corners; edges that rise and fall count from their upper end up to, not with, their lower.
        size: height and width.
    """
    height, width = size
    x1, y1 = points.T
    x2, y2 = np.roll(points, -1, axis=0).T
    first, last = (np.clip(np.ceil(y), 0, height).astype(np.intp) for y in (np.minimum(y1, y2), np.maximum(y1, y2)))
    edge = np.repeat(np.arange(len(points)), last - first)  # one entry for each row that an edge crosses
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
    crossing = x1[edge] + (row - y1[edge]) / (y2 - y1)[edge] * (x2 - x1)[edge]
    turns = np.zeros((height, width + 1), np.uint8)  # edges between this and the last pixel; only the parity counts
    np.add.at(turns, (row, np.clip(np.ceil(crossing), 0, width).astype(np.intp)), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(turns[:, :width], axis=1, dtype=np.uint8) % 2 == 1
    return inside


def _points(pairs: Any) -> Points:
    try:
        points = np.asarray(pairs, np.float64)
    except (TypeError, ValueError):
        raise UnreadableFile("the polygon's corners are not pairs of numbers") from None
    if points.size and (points.ndim != 2 or points.shape[1] != 2):
        raise UnreadableFile("the polygon's corners are not pairs of numbers")
    return points.reshape(-1, 2)


def _pairs(region: dict[str, Any]) -> list[dict[str, Any]]:
    points = region.get("points")
    if not isinstance(points, list) or not all(isinstance(p, dict) and {"x", "y"} <= p.keys() for p in points):
        raise UnreadableFile("a region of the <svg> element has no points with x and y")
    return points


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(f"the polygons are not JSON: {error}") from None


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise UnreadableFile(f"a <mark> names the image {text!r}; expected a number") from None


def _require_columns(needed: Any, present: Sequence[str]) -> None:
    missing = [name for name in needed if name not in present]
    if missing:
        raise UnreadableFile(
            f"the polygons' table lacks the columns {', '.join(missing)}; it has {', '.join(present) or 'none'}"
        )
