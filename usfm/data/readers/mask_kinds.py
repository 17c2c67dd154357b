"""The text of `mask_kind`: names of classes, and the options that stand before its colon."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usfm.errors import UnreadableFile

__all__ = ["Mask", "MaskFile", "Names", "checked", "class_names", "index_names", "level", "number", "option"]

Mask = npt.NDArray[np.uint8]
Names = dict[int, str]


@dataclass(frozen=True, eq=False)
class MaskFile:
    """What the reader of a kind is given.

    Attributes:
        data: the whole file.
        kind: the text of `mask_kind`.
        size: height and width of the image, None = not known.
        name: the file's name.
        sidecar: gives the bytes of the file that a volume's header names.
        frame: number of the image's frame, for `frame=each`.
    """

    data: bytes
    kind: str
    size: tuple[int, int] | None = None
    name: str = ""
    sidecar: Any = None
    frame: int | None = None

    def known_size(self) -> tuple[int, int]:
        """The image's size.

        Raises:
            UnreadableFile: it is not known.
        """
        if self.size is None:
            raise UnreadableFile(f"mask_kind {self.kind!r} needs the size of the image to fill polygons")
        return self.size

    def mask_frame(self) -> int | None:
        """Number of the mask's frame: `frame=<n>`, or the image's with `frame=each`; None = not stated."""
        if option(self.kind, "frame") != "each":
            return number(self.kind, "frame")
        if self.frame is None:
            raise UnreadableFile(f"mask_kind {self.kind!r} has a mask for each frame; no frame was asked for")
        return self.frame


def option(kind: str, key: str) -> str:
    """The value of `key=value` before the colon, "" where it is not stated; a value with spaces is quoted."""
    found = re.search(rf'\b{key}=("[^"]*"|\S+)', _split(kind)[0])
    return found.group(1).strip('"') if found else ""


def number(kind: str, key: str) -> int | None:
    """The value of an option that is a whole number, None where it is not stated."""
    text = option(kind, key)
    if text and not text.isdecimal():
        raise UnreadableFile(f"mask_kind {kind!r} states {key}={text}; expected a number")
    return int(text) if text else None


def level(kind: str) -> int:
    """The `threshold >n` of a kind."""
    found = re.search(r"threshold\s*>\s*(\d+)", kind)
    if found is None:
        raise UnreadableFile(f"mask_kind {kind!r} states no threshold; expected e.g. 'jpg, threshold >127: name'")
    return int(found.group(1))


def class_names(kind: str) -> Names:
    """Names behind the colon, numbered in their order."""
    names = [name.strip() for name in _split(kind)[1].split(",")]
    if not all(names):
        raise UnreadableFile(f"mask_kind {kind!r} names no classes; expected e.g. 'polygons json: liver, mass'")
    return dict(enumerate(names, 1))


def index_names(kind: str) -> Names:
    """Names of stored numbers, background included: "index png: 0 bg, 1 nerve"."""
    names = {int(digits): name.strip() for digits, name in re.findall(r"(\d+)\s+([^,(\d][^,(]*)", kind)}
    if len(names) < 2 or max(names) > 255:
        raise UnreadableFile(f"mask_kind {kind!r} names no classes; expected e.g. 'index png: 0 bg, 1 nerve'")
    return names


def checked(values: npt.NDArray[Any], names: Names) -> tuple[Mask, Names]:
    """Stored numbers as a mask, and the names of its classes.

    Raises:
        UnreadableFile: numbers that have no name, or no whole numbers.
    """
    unknown = sorted(set(np.unique(values).tolist()) - set(names) - {0})
    if unknown:
        shown = f"{unknown[:8]}{' and more' if len(unknown) > 8 else ''}"
        raise UnreadableFile(f"the index mask holds the values {shown}; its mask_kind names {sorted(names)}")
    return values.astype(np.uint8), {key: name for key, name in sorted(names.items()) if key}


def _split(kind: str) -> tuple[str, str]:
    """What stands before the colon and behind it; a colon in quotes is none."""
    found = re.fullmatch(r'((?:"[^"]*"|[^":])*):(.*)', kind, re.DOTALL)
    return (found[1], found[2]) if found else (kind, "")
