"""EchoNet-Dynamic: 10,030 apical four-chamber clips, and the left ventricle traced in two frames of each.

Known of the layout: the three entries below and their columns; FileList names videos without ".avi", the tracings
with it; frames count from 0. One clip is one patient. EchoNet-Pediatric has another table of tracings (X, Y): not
this source.

A traced frame is an item of its own beside its clip. Its name is `Videos/<video>+<frame>.avi`, so that row ids stay
unique and, sorted by name, the frame with the mask comes before the clip: if the clip's selection takes the same
frame, the one with the mask is kept.
"""

from collections.abc import Iterator

from upath import UPath

from usfm.data.readers.polygons import echonet_tracings
from usfm.data.schema import Item, Rejected
from usfm.data.sources.columns import read_columns, read_table
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, by_stem, child, is_medium
from usfm.data.sources.tree import Folder
from usfm.errors import DataError, UnreadableFile

__all__ = ["ECHONET"]

TITLE = "EchoNet-Dynamic (Ouyang et al., Nature 580, 2020, doi:10.1038/s41586-020-2145-8)"
LAYOUT = """Videos/0X100009310A3BD7FC.avi
FileList.csv         columns FileName, EF, ESV, EDV, Split
VolumeTracings.csv   columns FileName, X1, Y1, X2, Y2, Frame"""
MEASURES = ("EF", "ESV", "EDV")
COLUMNS = ("FileName", *MEASURES, "Split")
TRACINGS = "VolumeTracings.csv"


def check(root: UPath) -> None:
    """Folder and tables are there, and the list has its columns.

    Raises:
        DataError: another layout.
    """
    read_columns(_base(root).path / "FileList.csv", COLUMNS)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """A clip per video and a still per traced frame; videos that no list names come without label."""
    base = _base(root)
    tracings = base.path / TRACINGS
    try:
        frames = {name: list(traced) for name, traced in echonet_tracings(tracings.read_bytes()).items()}
    except UnreadableFile as error:
        raise DataError(f"{tracings}: {error}") from None
    videos = child(base, "Videos")
    yield from videos.refused
    files = by_stem([file for file in videos.files if is_medium(file)])
    for row in read_table(base.path / "FileList.csv", COLUMNS):
        stem = row["FileName"].removesuffix(".avi")
        file = files.pop(stem, "")
        if not file:
            name = videos.of(f"{stem}.avi")
            yield Rejected(name, "", "file", "FileList.csv names this video, but Videos/ lacks it")
            continue
        label = ";".join(f"{measure}={row[measure]}" for measure in MEASURES)
        traced = frames.get(f"{stem}.avi", [])
        yield from _video(videos, file, label, row["Split"].lower(), traced, str(tracings))
    for file in files.values():
        yield from _video(videos, file, "", "", [], "")


def _video(folder: Folder, file: str, label: str, split: str, traced: list[int], tracings: str) -> Iterator[Item]:
    stem, _, suffix = file.rpartition(".")
    clip = Item(
        path=str(folder.path / file),
        name=folder.of(file),
        organ="heart",
        label=label,
        group=stem,
        official_split=split,
    )
    yield clip
    for frame in traced:
        yield Item(
            path=clip.path,
            name=folder.of(f"{stem}+{frame}.{suffix}"),
            organ="heart",
            label=label,
            mask_path=tracings,
            mask_kind=f"polygons echonet-csv file={stem}.avi frame={frame}: left ventricle",
            group=stem,
            frame=frame,
            official_split=split,
        )


def _base(root: UPath) -> Folder:
    return base_folder(root, TITLE, LAYOUT, ["Videos", "FileList.csv", TRACINGS])


ECHONET = Source(
    name="echonet",
    title=TITLE,
    layout=LAYOUT,
    licence="Stanford University Dataset Research Use Agreement (non-commercial, no redistribution)",
    check=check,
    items=items,
    organ="heart",
)
