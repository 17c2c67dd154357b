"""A manifest: one CSV line per file, read line by line.

The CSV is UTF-8 with a header line; paths are relative to its folder. Columns path, organ, source and licence are
required; label, mask_path, mask_kind, group, spacing_mm, origin, sha256, device, frame, pair_path and
official_split are read where they exist; others are ignored. A line that cannot be used is refused alone.
"""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import replace

from upath import UPath

from usfm.data.schema import SPLITS, Item, Rejected
from usfm.data.sources.found import Source, organ_name
from usfm.data.sources.names import name_problem, posix, printable
from usfm.errors import DataError

__all__ = ["MANIFEST", "MANIFEST_NAME", "manifest_check", "manifest_items", "manifest_path"]

MANIFEST_NAME = "manifest.csv"
REQUIRED_COLUMNS = ("path", "organ", "source", "licence")


def manifest_path(location: UPath) -> UPath:
    """The CSV file: the location itself, or `manifest.csv` in it."""
    return location if location.name.lower().endswith(".csv") else location / MANIFEST_NAME


def manifest_check(location: UPath) -> None:
    """Read the header.

    Raises:
        DataError: the file is missing, is no CSV text, or lacks required columns.
    """
    path = manifest_path(location)
    with _lines(path) as stream:
        try:
            columns = next(csv.reader(stream), [])
        except csv.Error as error:
            raise DataError(f"{path} is not a CSV text file in UTF-8: {error}") from None
    if any(name_problem(column) for column in columns):
        raise DataError(f"{path} is not a CSV text file in UTF-8: its header holds other bytes")
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(columns) or 'none'}")


def manifest_items(location: UPath) -> Iterator[Item | Rejected]:
    """One entry per line: an item, or why the line is refused."""
    path = manifest_path(location)
    root = path.parent
    with _lines(path) as stream:
        reader = csv.reader(stream)
        columns = next(reader, [])
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                yield Rejected(f"{path.name}, line {reader.line_num}", "", "file", f"not a CSV line: {error}")
                continue
            if values is None:
                return
            if values:
                line = dict(zip(columns, (value.strip() for value in values), strict=False))
                yield from _entries(line, root)


def _lines(path: UPath) -> io.TextIOWrapper:
    """The CSV's text; bytes that are not UTF-8 become surrogates, so that they cost one line only."""
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no manifest at {path}") from None
    except OSError as error:
        raise DataError(f"the manifest {path} cannot be read: {error}") from None
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _entries(line: dict[str, str], root: UPath) -> Iterator[Item | Rejected]:
    name = posix(line.get("path", ""))
    source = line.get("source", "")
    if reason := _problem(line, name):
        yield Rejected(printable(name), printable(source), "file", reason)
        return
    spacing, frame = line.get("spacing_mm", ""), line.get("frame", "")
    item = Item(
        path=str(root / name),
        name=name,
        organ=organ_name(line["organ"]),
        label=line.get("label", ""),
        mask_kind=line.get("mask_kind", ""),
        group=line.get("group", ""),
        spacing_mm=float(spacing) if spacing else None,
        source=source,
        licence=line.get("licence", ""),
        origin=line.get("origin", ""),
        sha256=line.get("sha256", "").lower(),
        device=line.get("device", ""),
        frame=int(frame) if frame else None,
        official_split=line.get("official_split", "").lower(),
    )
    for kind in ("mask", "pair"):
        parts = [posix(part.strip()) for part in line.get(f"{kind}_path", "").split("|") if part.strip()]
        paths = "|".join(str(root / part) for part in parts if not name_problem(part))
        if reason := next(filter(None, map(name_problem, parts)), ""):
            yield Rejected(name, source, kind, reason)
        else:
            item = replace(item, mask_path=paths) if kind == "mask" else replace(item, pair_path=paths)
    yield item


def _problem(line: dict[str, str], name: str) -> str:
    """Why a line cannot be used, "" if it can."""
    if not name:
        return "the line states no path"
    if reason := name_problem(name):
        return reason
    for column, value in line.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{column} is not UTF-8; save the manifest as UTF-8"
    if not organ_name(line.get("organ", "")):
        return "the line states no organ"
    spacing, frame = line.get("spacing_mm", ""), line.get("frame", "")
    if spacing and not 0 < _number(spacing) < math.inf:
        return f"spacing_mm is {spacing!r}; expected a number above 0, or nothing"
    if frame and not (frame.isascii() and frame.isdigit() and len(frame) < 10):
        return f"frame is {frame!r}; expected a number from 0, or nothing"
    split = line.get("official_split", "")
    if split and split.lower() not in SPLITS:
        return f"official_split is {split!r}; expected {', '.join(SPLITS)}, or nothing"
    return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


MANIFEST = Source(
    name="manifest",
    title="a CSV with one line per file",
    layout="manifest.csv with the columns path, organ, source, licence (and more), beside or above the files",
    licence="",
    check=manifest_check,
    items=manifest_items,
    published=False,
)
