"""What every source gives: a description of the layout it reads, and a stream of items.

A source walks its archive and yields `Item`s and `Rejected`s as it finds them, never a list of everything, in any
order (the catalogue sorts). Adding one: a file beside this one with a `Source`, and one line in `table.py`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from upath import UPath

from usfm.data.schema import Item, Rejected

__all__ = ["Source", "organ_name"]


@dataclass(frozen=True)
class Source:
    """One layout that can be read.

    Attributes:
        name: key in the table and default `Item.source`.
        title: what it is, with the publication where there is one.
        layout: the expected folders and files, a few lines; part of the documentation and of errors.
        licence: the publisher's licence, as far as it is the same for all files; else "".
        check: raises `DataError` with what is missing if `root` has another layout; opens few files.
        items: the stream of items and refusals below `root`.
    """

    name: str
    title: str
    layout: str
    licence: str
    check: Callable[[UPath], None]
    items: Callable[[UPath], Iterator[Item | Rejected]]


def organ_name(text: str) -> str:
    """Lower case with underscores: it becomes a folder name. "Fetal Head" -> "fetal_head"."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
