"""A tree of DICOM files, as a scanner or a PACS exports it; nothing is known from folders.

The organ is BodyPartExamined, else `source_options.organ`. Patients are grouped by the reader, which hashes
PatientID. Folders and files of an export are often named after patients, so items are named by a keyed hash of
their path (`hashed_name`); `docs/sources.md` shows how to find a file again. DICOMDIR is passed over.

Header fields are read with pydicom up to BodyPartExamined only, about a millisecond per file.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import pydicom
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from upath import UPath

from usfm.data.prepare import DEFAULT_GROUP_KEY, GROUP_KEY_VARIABLE
from usfm.data.readers.clips import CLIP_SUFFIXES
from usfm.data.readers.stills import STILL_SUFFIXES
from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored, is_media
from usfm.data.sources.found import Source
from usfm.data.sources.tree import Folder, walk
from usfm.errors import DataError, UnreadableFile

__all__ = ["DICOM", "hashed_name", "holds_dicom"]

BODY_PART = Tag("BodyPartExamined")
MODALITY = Tag("Modality")
MODALITIES = ("US", "IVUS", "")  # "" where the file does not say
LOOKED_AT = 20
MANY = 10_000


def check(root: UPath) -> None:
    """The first files are DICOM, and nothing among them is another kind of image or clip.

    Raises:
        DataError: no file, or one of them is another medium.
    """
    looked_at = 0
    for folder in walk(root):
        for file in folder.files:
            if PurePosixPath(file).suffix.lower() in STILL_SUFFIXES | CLIP_SUFFIXES:
                raise DataError(f"{root} holds {folder.of(file)}, not only DICOM; expected {DICOM.layout}")
            if file != "DICOMDIR" and is_media(folder, file):
                looked_at += 1
            if looked_at == LOOKED_AT:
                return
    if not looked_at:
        raise DataError(f"{root} holds no DICOM files; expected {DICOM.layout}")


def holds_dicom(root: UPath) -> bool:
    """Whether there is DICOM among the first files of a tree."""
    looked_at = 0
    for folder in walk(root):
        for file in folder.files:
            suffix = PurePosixPath(file).suffix.lower()
            bare = not suffix or suffix[1:].isdigit()
            if suffix in (".dcm", ".dicom") or file == "DICOMDIR" or (bare and is_media(folder, file)):
                return True
            looked_at += 1
            if looked_at == MANY:
                return False
    return False


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per DICOM file of an ultrasound modality."""
    for folder in walk(root):
        for entry in folder.refused:
            yield Rejected(hashed_name(entry.name), "", entry.kind, entry.reason)
        for file in folder.files:
            name = hashed_name(folder.of(file))
            if file == "DICOMDIR" or not is_media(folder, file):
                yield ignored(name)
                continue
            try:
                modality, organ = _header(folder, file)
            except UnreadableFile as error:
                yield Rejected(name, "", "file", str(error))
                continue
            if modality not in MODALITIES:
                yield Rejected(name, "", "file", f"the modality is {modality!r}; expected US or IVUS")
            else:
                yield Item(path=str(folder.path / file), name=name, organ=organ)


def hashed_name(name: str) -> str:
    """What a file of this path (relative to the root) is called in shards: 32 hex digits and `.dcm`.

    The key is that of the patients' hashes, the environment variable `USFM_GROUP_KEY`.
    """
    key = os.environ.get(GROUP_KEY_VARIABLE, DEFAULT_GROUP_KEY).encode()[:64]
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), key=key, digest_size=16).hexdigest() + ".dcm"


def _header(folder: Folder, file: str) -> tuple[str, str]:
    """Modality and body part of a file, "" where it does not say."""
    try:
        with (folder.path / file).open("rb") as stream, warnings.catch_warnings(action="ignore"):
            header = _read_header(stream)
            return str(header.get("Modality", "")).upper(), str(header.get("BodyPartExamined", ""))
    except OSError as error:
        raise UnreadableFile(f"the file cannot be read: {error.strerror}") from None
    except Exception as error:  # a decoder's boundary: pydicom raises anything for damaged headers
        raise UnreadableFile(f"damaged DICOM header: {type(error).__name__}: {error}"[:200]) from None


def _read_header(stream: BinaryIO) -> pydicom.Dataset:
    def behind(tag: BaseTag, vr: str | None, length: int) -> bool:
        return int(tag) > int(BODY_PART)

    return read_partial(stream, stop_when=behind, specific_tags=[MODALITY, BODY_PART], force=True)


DICOM = Source(
    name="dicom",
    title="a tree of DICOM files",
    layout="any folders; files ending in .dcm or .dicom, or bare ones that hold DICOM; nothing else but DICOMDIR",
    licence="",
    check=check,
    items=items,
    published=False,
)
