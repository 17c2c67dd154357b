"""What every source gives: a description of the layout it reads, and a stream of items.

A source walks its archive and yields `Item`s and `Rejected`s as it finds them, never a list of everything, in any
order (the catalogue sorts). Adding one: a file beside this one with a `Source`, and one line in `table.py`.
`docs/sources.md` shows a whole one.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from upath import UPath

from usfm.config import Config
from usfm.data.schema import Item, Rejected

__all__ = ["NOT_STATED", "NO_OPTIONS", "Found", "Listing", "Source", "SourceOptions", "organ_name"]

NOT_STATED = "not stated"


class SourceOptions(Config):
    """What the user knows and the archive does not say; each value fills a gap, none overrides the archive.

    Attributes:
        organ: organ of items whose source names none.
        source: name of the data set, where the layout is nobody's in particular; "" = the folder's own name.
        licence: licence of items whose source states none.
    """

    organ: str = ""
    source: str = ""
    licence: str = ""


NO_OPTIONS = SourceOptions()


@dataclass(frozen=True)
class Source:
    """One layout that can be read.

    Attributes:
        name: key in the table and default `Item.source`.
        title: what it is, with the publication where there is one.
        layout: the expected folders and files, a few lines; part of the documentation and of errors.
        licence: the publisher's licence, as far as it is the same for all files; else "".
        check: raises `DataError` with what is missing if `root` has another layout; opens few files.
        items: the stream of items and refusals below `root`. Fields left "" (organ, source, licence) are
            filled by the table, from the options, then from here.
        organ: organ of all items where there is one, for the documentation; else "".
        published: a certain data set, found by "auto". False = a layout that anybody's files may have; such
            items are named after their folder.
        needs_organ: the layout says nothing of organs, so `SourceOptions.organ` must.
    """

    name: str
    title: str
    layout: str
    licence: str
    check: Callable[[UPath], None]
    items: Callable[[UPath], Iterator[Item | Rejected]]
    organ: str = ""
    published: bool = True
    needs_organ: bool = False


@dataclass(frozen=True)
class Listing:
    """An archive that was recognised: `entries` is read once, as the archive is walked."""

    kind: str
    root: UPath
    entries: Iterator[Item | Rejected]


@dataclass(frozen=True)
class Found:
    """A listing in memory: `items` sorted by name, what was refused unread, and files that are not media."""

    kind: str
    root: UPath
    items: list[Item]
    rejected: list[Rejected]
    ignored: int = 0


def organ_name(text: str) -> str:
    """Lower case with underscores: it becomes a folder name. "Fetal Head" -> "fetal_head"."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
