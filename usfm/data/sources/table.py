"""Where items come from: a manifest with one line per file, or a folder tree.

An explicit table `SOURCES` maps a kind to its function; adding a kind means one function and one line.
Every path is resolved: what lies outside the archive's root is refused, not read.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from usfm.data.readers.decode import CLIP_SUFFIXES, STILL_SUFFIXES, sniff
from usfm.data.schema import Item, Rejected
from usfm.data.sources.found import organ_name
from usfm.errors import ConfigError, DataError

__all__ = ["MANIFEST_NAME", "SOURCES", "Found", "find_items", "folder_items", "manifest_items"]

MANIFEST_NAME = "manifest.csv"
REQUIRED_COLUMNS = ("path", "organ", "source", "licence")
MEDIA_SUFFIXES = STILL_SUFFIXES | CLIP_SUFFIXES | {".dcm", ".dicom", ".imf"}
NOT_STATED = "not stated"


@dataclass(frozen=True)
class Found:
    """What a source listed: `items` sorted by name, what was refused unread, and files that are not media."""

    kind: str
    root: Path
    items: list[Item]
    rejected: list[Rejected]
    ignored: int = 0


def find_items(input_path: str | Path, kind: str = "auto") -> Found:
    """List the items of an archive.

    Args:
        input_path: a manifest, a folder that holds one, or a folder tree.
        kind: a key of `SOURCES`, or "auto": a CSV file or a folder with a `manifest.csv` is a manifest.

    Raises:
        ConfigError: an unknown kind.
        DataError: nothing there, or a manifest that cannot be read.
    """
    path = Path(input_path)
    if not path.exists():
        raise DataError(
            f"no input at {path}; give a manifest CSV, or a folder with {MANIFEST_NAME} or organ folders"
        )
    if kind == "auto":
        kind = "manifest" if path.is_file() or (path / MANIFEST_NAME).is_file() else "folder"
    if kind not in SOURCES:
        raise ConfigError(f"unknown source {kind!r}; known: auto, {', '.join(SOURCES)}")
    return SOURCES[kind](path)


def manifest_items(csv_path: str | Path) -> Found:
    """Items of a manifest CSV (UTF-8, header line); paths are relative to the CSV's folder.

    Columns: path, organ, source and licence are required; label, mask_path, mask_kind, group, spacing_mm,
    origin and sha256 are read where they exist; others are ignored. A line that cannot be used is refused
    alone, with its reason.

    Raises:
        DataError: the file is missing, is no CSV text, or lacks required columns.
    """
    path = Path(csv_path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    root = path.parent.resolve()
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in REQUIRED_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                has = ", ".join(reader.fieldnames or ("none",))
                raise DataError(f"{path} lacks the columns {', '.join(missing)}; it has {has}")
            lines = [{key: (value or "").strip() for key, value in line.items() if key} for line in reader]
    except FileNotFoundError:
        raise DataError(f"no manifest at {path}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV text file in UTF-8: {error}") from None

    items: list[Item] = []
    rejected: list[Rejected] = []
    for line in lines:
        name, source = _posix(line["path"]), line["source"]
        item = Item(
            path=str(root / name),
            name=name,
            organ=organ_name(line["organ"]),
            label=line.get("label", ""),
            mask_kind=line.get("mask_kind", ""),
            group=line.get("group", ""),
            source=source,
            licence=line["licence"] or NOT_STATED,
            origin=line.get("origin", ""),
            sha256=line.get("sha256", "").lower(),
        )
        reason = _line_problem(item, line.get("spacing_mm", "")) or _escape_problem(item.path, root)
        if reason:
            rejected.append(Rejected(name, source, "file", reason))
            continue
        spacing = line.get("spacing_mm", "")
        item = replace(item, spacing_mm=float(spacing) if spacing else None)
        if mask := _posix(line.get("mask_path", "")):
            if problem := _escape_problem(str(root / mask), root):
                rejected.append(Rejected(name, source, "mask", problem))
            else:
                item = replace(item, mask_path=str(root / mask))
        items.append(item)
    return _found("manifest", root, items, rejected, 0)


def folder_items(root: str | Path, source: str = "", licence: str = NOT_STATED) -> Found:
    """Items of a tree `<root>/<organ>/[<label>/][<group>/]file`; the organ is the first folder.

    Hidden files are passed over. A still `x_mask.png` beside `x.png` is its binary mask. Files without a
    media suffix are taken if they are DICOM (scanners write them bare), else counted as ignored.

    Args:
        root: the folder.
        source: name of the data set, "" = the folder's own name.
        licence: licence of all its files.

    Raises:
        DataError: not a folder.
    """
    top = Path(root).resolve()
    if not top.is_dir():
        raise DataError(f"{root} is not a folder; give a folder of organ folders, or a manifest CSV")
    source = source or top.name
    items: list[Item] = []
    rejected: list[Rejected] = []
    ignored = 0
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in links:
            where = (here / name).relative_to(top).as_posix()
            rejected.append(Rejected(where, source, "file", "a link to a folder is not followed; copy the folder"))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in links)
        visible = sorted(name for name in files if not name.startswith("."))
        masks = _masks(visible)
        for file in visible:
            path = here / file
            name = path.relative_to(top).as_posix()
            if problem := _escape_problem(str(path), top):
                rejected.append(Rejected(name, source, "file", problem))
            elif file in masks.values():
                continue
            elif not _is_media(path):
                ignored += 1
            elif here == top:
                rejected.append(
                    Rejected(name, source, "file", "lies in no organ folder; expected <organ>/.../file")
                )
            else:
                parts = here.relative_to(top).parts
                mask = str(here / masks[file]) if file in masks else ""
                items.append(
                    Item(
                        path=str(path),
                        name=name,
                        organ=organ_name(parts[0]),
                        label=parts[1] if len(parts) > 1 else "",
                        mask_path=mask,
                        mask_kind="binary png" if mask else "",
                        group="/".join(parts[2:]),
                        source=source,
                        licence=licence,
                    )
                )
    return _found("folder", top, items, rejected, ignored)


SOURCES: dict[str, Callable[[Path], Found]] = {"manifest": manifest_items, "folder": folder_items}


def _found(kind: str, root: Path, items: Iterable[Item], rejected: Iterable[Rejected], ignored: int) -> Found:
    # by name: the order of a directory listing or of a manifest's lines must not change the shards
    ordered = sorted(items, key=lambda item: (item.name, item.source, item.organ, item.label))
    return Found(kind, root, ordered, sorted(rejected, key=lambda r: (r.name, r.kind, r.reason)), ignored)


def _posix(text: str) -> str:
    """A manifest's path with forward slashes and without `./`; `..` stays, to be refused."""
    return PurePosixPath(text.replace("\\", "/")).as_posix() if text else ""


def _line_problem(item: Item, spacing: str) -> str:
    if not item.name:
        return "the line states no path"
    if not item.organ:
        return "the line states no organ"
    if not spacing:
        return ""
    try:
        value = float(spacing)
    except ValueError:
        value = math.nan
    return "" if 0 < value < math.inf else f"spacing_mm is {spacing!r}; expected a number above 0, or nothing"


def _escape_problem(path: str, root: Path) -> str:
    """Why a path may not be read: `..`, an absolute path or a link that leaves the root."""
    if Path(os.path.realpath(path)).is_relative_to(root):
        return ""
    return "the path leaves the archive's folder (through .., an absolute path or a link); it was not read"


def _masks(files: list[str]) -> dict[str, str]:
    """Image file -> its `<stem>_mask.*` file, among the files of one folder."""
    by_stem = {Path(file).stem: file for file in files if Path(file).suffix.lower() in STILL_SUFFIXES}
    found: dict[str, str] = {}
    for stem, file in by_stem.items():
        if stem.lower().endswith("_mask") and (image := by_stem.get(stem[:-5])) is not None:
            found[image] = file
    return found


def _is_media(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in MEDIA_SUFFIXES:
        return True
    if suffix and not suffix[1:].isdigit():  # DICOM files are often named by their UID: 1.2.840.1
        return False
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(132)) == "dicom"
    except OSError:
        return True  # unreadable: let the reader say why in the quarantine table
