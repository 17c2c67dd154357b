"""List a miniature archive and read what its items name, as ingest does."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from source_miniatures import lay_out

from usfm.data.attached import read_labels
from usfm.data.readers.decode import beside, file_bytes, read_bytes
from usfm.data.readers.frames import Frame, FrameSelection
from usfm.data.schema import Item
from usfm.data.sources.found import Found
from usfm.data.sources.table import find_items

__all__ = ["WHERE", "by_name", "listed", "read_item", "relative"]

WHERE = ("folder", "zip", "memory")
Masks = dict[int, npt.NDArray[np.uint8]]


def listed(files: Mapping[str, bytes], kind: str, folder: Path, where: str = "folder") -> Found:
    """The entries of a miniature; `auto` has to recognise it too."""
    location = lay_out(files, where, folder)
    found = find_items(location, kind)
    assert find_items(location) == found
    return found


def relative(found: Found) -> list[Item]:
    """The items with paths below the root, whatever it lies on."""
    top = str(found.root).partition("::")[0].removeprefix("zip://")

    def cut(paths: str) -> str:
        inner = (path.partition("::")[0].removeprefix("zip://") for path in paths.split("|"))
        return "|".join(path.removeprefix(top).lstrip("/") for path in inner)

    return [replace(item, path=cut(item.path), mask_path=cut(item.mask_path)) for item in found.items]


def by_name(found: Found) -> dict[str, Item]:
    """Items by their name, which is unique."""
    names = {item.name: item for item in found.items}
    assert len(names) == len(found.items)
    return names


def read_item(item: Item, max_frames: int = 8) -> tuple[list[Frame], Masks, dict[int, str]]:
    """Frames, masks by frame number, and names of the classes; no mask may be refused."""
    selection = FrameSelection(max_frames=max_frames)
    frames = read_bytes(file_bytes(item.path), item.name, selection, item.frame, beside(item.path))
    labels, rejected = read_labels(item, frames)
    assert rejected == []
    return frames, labels.masks, labels.names
