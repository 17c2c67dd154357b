"""COVID-19 POCUS: lung clips and stills that were collected from the web, each with a licence of its own.

Known of the layout: the folders below, in the repository or in its `data` folder; the first letters of a file's
name are its class; `dataset_metadata.csv` (optional) has one line per file with licence, address and patient. Its
names differ from the files' in `-`, `_` and suffix, so that names are compared by letters and digits only; where
two lines of one name state different licences or patients, neither is believed.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_table
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, child, is_medium
from usfm.data.sources.tree import Folder

__all__ = ["POCUS"]

TITLE = "COVID-19 POCUS (Born et al., Applied Sciences 11(2), 672, 2021, doi:10.3390/app11020672)"
LAYOUT = """data/pocus_images/convex/Cov-*.png    also linear; Cov, Pneu, Reg or Vir
data/pocus_videos/convex/Pneu-*.mp4   also linear; gif, mp4, mpeg, mov, avi
data/dataset_metadata.csv             optional; columns Filename, License, Patient ID / Name"""
CLASSES = {"cov": "covid", "pneu": "bacterial pneumonia", "reg": "regular", "vir": "viral pneumonia"}
MEDIA_FOLDERS = ("pocus_images", "pocus_videos")
METADATA = "dataset_metadata.csv"
COLUMNS = ("Filename", "License", "Patient ID / Name")
NOTHING = {"", "none", "n.a.", "n/a", "nd", "na", "nan"}


class Facts(NamedTuple):
    """What the metadata state of a file; "" = not stated."""

    licence: str = ""
    patient: str = ""
    origin: str = ""


def check(root: UPath) -> None:
    """One of the two folders is there.

    Raises:
        DataError: another layout.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """Every still and clip."""
    base = _base(root)
    data = base if _holds_media(base) else child(base, "data")
    facts = _metadata(data)
    for name in MEDIA_FOLDERS:
        if name not in data.folders:
            continue
        media = child(data, name)
        for folder in (media, *(child(media, probe) for probe in media.folders)):
            yield from folder.refused
            for file in folder.files:
                if is_medium(file):
                    yield _item(folder, file, facts.get(_key(file), Facts()))
                else:
                    yield ignored(folder.of(file))


def _item(folder: Folder, file: str, facts: Facts) -> Item:
    label = next((label for prefix, label in CLASSES.items() if file.lower().startswith(prefix)), "")
    return Item(
        path=str(folder.path / file),
        name=folder.of(file),
        organ="lung",
        label=label,
        group=facts.patient or "unknown (no patient stated)",
        licence=facts.licence,
        origin=facts.origin,
    )


def _metadata(data: Folder) -> dict[str, Facts]:
    if METADATA not in data.files:
        return {}
    found: dict[str, Facts] = {}
    for row in read_table(data.path / METADATA, COLUMNS):
        facts = Facts(*(_stated(row.get(name, "")) for name in (*COLUMNS[1:], "URL (Video Name)")))
        before = found.get(_key(row["Filename"]), facts)
        found[_key(row["Filename"])] = Facts(*(a if a == b else "" for a, b in zip(before, facts, strict=True)))
    return found


def _key(file: str) -> str:
    stem = PurePosixPath(file).stem if is_medium(file) else file
    return re.sub(r"[^a-z0-9]", "", stem.lower())


def _stated(text: str) -> str:
    return "" if text.lower() in NOTHING else text


def _holds_media(folder: Folder) -> bool:
    return any(name in folder.folders for name in MEDIA_FOLDERS)


def _base(root: UPath) -> Folder:
    markers = "|".join(f"{where}{name}" for where in ("data/", "") for name in MEDIA_FOLDERS)
    return base_folder(root, TITLE, LAYOUT, [markers])


POCUS = Source(
    name="pocus",
    title=TITLE,
    layout=LAYOUT,
    licence="",
    check=check,
    items=items,
    organ="lung",
)
