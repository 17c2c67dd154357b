"""The table of sources, which of them fits an archive, and its items.

Adding a source: a file beside this one with a `Source` (see `docs/sources.md`), and one line here.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from upath import UPath

from usfm.data.location import Location, locate
from usfm.data.schema import Item, Rejected
from usfm.data.sources.aul import AUL
from usfm.data.sources.busbra import BUSBRA
from usfm.data.sources.busi import BUSI
from usfm.data.sources.busuclm import BUSUCLM
from usfm.data.sources.camus import CAMUS
from usfm.data.sources.class_folders import CLASS_FOLDERS
from usfm.data.sources.ddti import DDTI
from usfm.data.sources.dicom import DICOM, holds_dicom
from usfm.data.sources.echonet import ECHONET
from usfm.data.sources.fetal_planes import FETAL_PLANES
from usfm.data.sources.folder import FOLDER
from usfm.data.sources.found import NO_OPTIONS, Found, Listing, Source, SourceOptions
from usfm.data.sources.guard import Guard
from usfm.data.sources.hc18 import HC18
from usfm.data.sources.image_mask import IMAGE_MASK
from usfm.data.sources.kidneyus import KIDNEYUS
from usfm.data.sources.luminous import LUMINOUS
from usfm.data.sources.manifest import MANIFEST, MANIFEST_NAME
from usfm.data.sources.mmotu import MMOTU
from usfm.data.sources.muscle import FALLMUD
from usfm.data.sources.pocus import POCUS
from usfm.data.sources.tn3k import TN3K
from usfm.data.sources.tree import folder_names, remembered
from usfm.data.sources.ultrabench import ULTRABENCH
from usfm.data.sources.usenhance import USENHANCE
from usfm.errors import ConfigError, DataError

__all__ = ["MANIFEST_NAME", "SOURCES", "detect", "find_items", "list_items", "open_archive"]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        MANIFEST,
        FOLDER,
        CLASS_FOLDERS,
        IMAGE_MASK,
        DICOM,
        BUSI,
        BUSBRA,
        BUSUCLM,
        DDTI,
        TN3K,
        HC18,
        USENHANCE,
        CAMUS,
        ECHONET,
        POCUS,
        FETAL_PLANES,
        MMOTU,
        FALLMUD,
        LUMINOUS,
        KIDNEYUS,
        AUL,
        ULTRABENCH,
    )
}


def list_items(location: Location, kind: str = "auto", options: SourceOptions = NO_OPTIONS) -> Listing:
    """Recognise an archive, and stream its items as it is walked; memory does not grow with it.

    Args:
        location: a folder, a manifest CSV or a zip file; a local path or a URL that fsspec opens.
        kind: a key of `SOURCES`, or "auto" (see `detect`).
        options: what the archive does not say itself.

    Raises:
        ConfigError: an unknown kind, or a layout without organs and no organ in the options.
        DataError: nothing there, or another layout than that of `kind`.
    """
    if kind != "auto" and kind not in SOURCES:
        raise ConfigError(f"unknown source {kind!r}; known: auto, {', '.join(SOURCES)}")
    root = open_archive(location)
    source = SOURCES[detect(root) if kind == "auto" else kind]
    source.check(root)
    if source.needs_organ and not options.organ:
        raise ConfigError(f"the layout of {source.name!r} names no organ; give source_options.organ")
    folder = root.parent if _is_csv(root) else root
    set_name = source.name if source.published else options.source or _name(folder)
    guard = Guard(folder, options.organ, set_name, source.licence or options.licence)
    return Listing(source.name, folder, _entries(source, root, guard))


def find_items(location: Location, kind: str = "auto", options: SourceOptions = NO_OPTIONS) -> Found:
    """`list_items`, in memory and sorted by name; for tests, dry runs and small archives."""
    listing = list_items(location, kind, options)
    items: list[Item] = []
    rejected: list[Rejected] = []
    ignored = 0
    for entry in listing.entries:
        if isinstance(entry, Item):
            items.append(entry)
        elif entry.kind == "ignored":
            ignored += 1
        else:
            rejected.append(entry)
    # by name: the order of a directory listing or of a manifest's lines must not change the shards
    items.sort(key=lambda item: (item.name, item.source, item.organ, item.label, item.frame or 0))
    rejected.sort(key=lambda entry: (entry.name, entry.kind, entry.reason))
    return Found(listing.kind, listing.root, items, rejected, ignored)


def detect(root: UPath) -> str:
    """Which source fits: a manifest, else the one published set whose check passes, else dicom, else folder.

    Raises:
        DataError: a file that is no manifest, several sets fit, or nothing does.
    """
    if _is_csv(root) or (root / MANIFEST_NAME).is_file():
        return "manifest"
    if root.is_file():
        raise DataError(f"{root} is one file; give a folder, a zip file of one, or a manifest CSV")
    with remembered():
        fitting = [name for name, source in SOURCES.items() if source.published and _fits(source, root)]
        only_dicom = not fitting and _fits(DICOM, root)
    if len(fitting) > 1:
        raise DataError(f"{root} looks like {' and like '.join(fitting)}; say which: source={fitting[0]}")
    if fitting:
        return fitting[0]
    if only_dicom:
        return DICOM.name
    if folder_names(root):
        if holds_dicom(root):
            raise DataError(
                f"{root} holds DICOM files among others, and folders of DICOM often carry patients' names: say "
                "source=dicom (names are hashed, other files left out) or source=folder (folders are organs, "
                "names stay)"
            )
        return FOLDER.name
    tried = ", ".join(name for name, source in SOURCES.items() if source.published)
    raise DataError(
        f"{root} fits no source: it has no {MANIFEST_NAME}, is none of {tried}, holds not only DICOM, and has no "
        "organ folders; docs/sources.md shows the layouts, source=NAME says which one is meant"
    )


def open_archive(location: Location) -> UPath:
    """The folder, zip file or CSV that a location names; local ones absolute, without links.

    Raises:
        DataError: there is nothing, or a zip file that is none.
    """
    text = str(location)
    if "://" not in text and "::" not in text:
        text = str(Path(text).resolve())
    try:
        root = locate(text)
        if root.exists():
            return root
    except FileNotFoundError:
        pass
    except zipfile.BadZipFile as error:
        raise DataError(f"{location} cannot be opened as a zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{location} cannot be opened: {error}") from None
    raise DataError(
        f"no input at {location}; give a manifest CSV, a folder with {MANIFEST_NAME} or organ folders, a public "
        "set as its publisher lays it out, or a zip file of one of these"
    )


def _entries(source: Source, root: UPath, guard: Guard) -> Iterator[Item | Rejected]:
    for entry in source.items(root):
        yield from guard.entries(entry)


def _fits(source: Source, root: UPath) -> bool:
    try:
        source.check(root)
    except DataError:
        return False
    return True


def _is_csv(root: UPath) -> bool:
    return root.name.lower().endswith(".csv") and root.is_file()


def _name(folder: UPath) -> str:
    """The folder's name; that of the zip file or the bucket where it is their root."""
    text = str(folder).rpartition("::")[2] if "::" in str(folder) and not folder.name else str(folder)
    return PurePosixPath(text.rstrip("/")).name.removesuffix(".zip") or "archive"
