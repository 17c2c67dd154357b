"""The last look at every entry of every source, before anything opens a file.

Sources are many and written by many people; what must never happen is therefore checked once, here: no item
leaves the archive's folder, waits for ever on a pipe, or has a name that no table can hold.
"""

import os
import stat
from dataclasses import replace

from upath import UPath

from usfm.data.location import is_local
from usfm.data.schema import SPLITS, Item, Rejected
from usfm.data.sources.found import NOT_STATED, organ_name
from usfm.data.sources.names import name_problem, printable

__all__ = ["Guard"]

LEAVES = "the path leaves the archive's folder (through .., an absolute path or a link); it was not read"
REMEMBERED_FOLDERS = 64


class Guard:
    """Fills what the entries of one listing leave open, and refuses what may not be read.

    Args:
        root: the archive's folder; local paths must stay inside it.
        organ: organ of items that state none.
        source: data set of entries that state none.
        licence: licence of items that state none.
    """

    def __init__(self, root: UPath, organ: str, source: str, licence: str) -> None:
        self.local = is_local(root)
        self.top = os.path.realpath(str(root)) if self.local else str(root).rstrip("/")
        self.organ = organ_name(organ)
        self.source = source
        self.licence = licence or NOT_STATED
        self._folders: dict[str, str] = {}

    def entries(self, entry: Item | Rejected) -> list[Item | Rejected]:
        """The entry as it goes on: completed, or refused, or without the mask or pair that may not be read."""
        if isinstance(entry, Rejected):
            return [replace(entry, name=printable(entry.name), source=entry.source or self.source)]
        item = replace(
            entry,
            organ=organ_name(entry.organ) or self.organ,
            source=entry.source or self.source,
            licence=entry.licence or self.licence,
        )
        reason = name_problem(item.name) or self._item_problem(item)
        if reason:
            return [Rejected(printable(item.name), item.source, "file", reason)]
        found: list[Item | Rejected] = []
        for kind in ("mask", "pair"):
            paths = getattr(item, f"{kind}_path")
            problems = (self.path_problem(path) for path in paths.split("|") if path)
            if reason := next(filter(None, problems), ""):
                found.append(Rejected(item.name, item.source, kind, reason))
                item = replace(item, mask_path="", mask_kind="") if kind == "mask" else replace(item, pair_path="")
        return [*found, item]

    def path_problem(self, path: str) -> str:
        """Why a path may not be opened, "" if it may. A missing file is the reader's affair."""
        if not self.local:
            return "" if self._below(path) else LEAVES
        folder, name = os.path.split(path)
        try:
            real = os.path.join(self._real(folder), name)
            state = os.lstat(real)
            if stat.S_ISLNK(state.st_mode):
                real = os.path.realpath(path)
                if not self._inside(real):
                    return LEAVES
                state = os.stat(real)
        except FileNotFoundError:
            return "" if self._inside(os.path.realpath(path)) else LEAVES
        except (OSError, ValueError) as error:
            return f"the path cannot be opened: {getattr(error, 'strerror', None) or error}"
        if not self._inside(real):
            return LEAVES
        return (
            "" if stat.S_ISREG(state.st_mode) else "a folder, pipe, socket or device, not a file; it was not read"
        )

    def _item_problem(self, item: Item) -> str:
        if not item.organ:
            return "no organ is stated; give source_options.organ, or source=folder if the first folder is it"
        if item.official_split and item.official_split not in SPLITS:
            return f"official_split is {item.official_split!r}; expected {', '.join(SPLITS)}, or nothing"
        return self.path_problem(item.path)

    def _real(self, folder: str) -> str:
        """The folder without links; remembered, since an archive has many files to a folder."""
        if (real := self._folders.get(folder)) is None:
            if len(self._folders) >= REMEMBERED_FOLDERS:
                self._folders.clear()
            real = self._folders[folder] = os.path.realpath(folder)
        return real

    def _inside(self, real: str) -> bool:
        return real.startswith(self.top if self.top.endswith(os.sep) else self.top + os.sep)

    def _below(self, path: str) -> bool:
        """Whether a URL lies below the root's; `..` never does."""
        inner, _, outer = path.partition("::")
        top_inner, _, top_outer = self.top.partition("::")
        prefix = top_inner if top_inner.endswith("/") else f"{top_inner}/"
        return outer == top_outer and inner.startswith(prefix) and ".." not in inner.split("/")
