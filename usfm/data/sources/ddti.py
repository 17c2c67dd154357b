"""DDTI, thyroid nodules of Universidad Nacional de Colombia (Pedraza et al., Proc. SPIE 9287, 2015).

Known: in one folder `12.xml` per case with `12_1.jpg`, `12_2.jpg`; the XML has number, age, sex, composition,
echogenicity, margins, calcifications, tirads (2, 3, 4a, 4b, 4c, 5 or empty) and one `mark` per image, with its
number in `image` and JSON polygons in `svg`. The case is the patient. The publisher's
licence is not known.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.tree import Folder, folder_names, list_folder, some_files
from usfm.errors import DataError

__all__ = ["DDTI"]

CASE = re.compile(r"\d+\.xml", re.IGNORECASE)
IMAGE = re.compile(r"(\d+)_(\d+)\.jpe?g", re.IGNORECASE)
MAX_XML_BYTES = 4 << 20


def check(root: UPath) -> None:
    """A numbered XML file and a numbered image.

    Raises:
        DataError: there is none.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image; the mask lies in the XML of its case."""
    folder = _base(root)
    yield from folder.refused
    cases = {file.rpartition(".")[0]: file for file in folder.files if CASE.fullmatch(file)}
    read: tuple[str, str, set[str]] = ("", "", set())  # the files are sorted: one case is read once
    for file in folder.files:
        if CASE.fullmatch(file):
            continue
        if (match := IMAGE.fullmatch(file)) is None:
            yield ignored(folder.of(file))
            continue
        case, number = match[1], match[2]
        if read[0] != case:
            tirads, marked = "", set[str]()
            if case in cases:
                try:
                    tirads, marked = _case(folder.path / cases[case])
                except DataError as error:
                    yield Rejected(folder.of(cases[case]), "", "mask", str(error))
            read = (case, tirads, marked)
        marks = number.lstrip("0") in read[2]
        yield Item(
            path=str(folder.path / file),
            name=folder.of(file),
            organ="thyroid",
            label=f"TI-RADS {read[1]}" if read[1] else "",
            mask_path=str(folder.path / cases[case]) if marks else "",
            mask_kind=f"polygons ddti-xml image={int(number)}: nodule" if marks else "",
            group=f"case{case}",
        )


def _base(root: UPath) -> Folder:
    """The folder of the cases: the root or the only one in it."""
    names = some_files(root)
    if names or len(inner := folder_names(root)) != 1:
        inner = [""]
    names = names or some_files(root / inner[0])
    if not any(map(CASE.fullmatch, names)) or not any(map(IMAGE.fullmatch, names)):
        raise DataError(f"{root} has no 1.xml beside 1_1.jpg; expected {DDTI.layout}")
    return list_folder(root / inner[0] if inner[0] else root, inner[0])


def _case(path: UPath) -> tuple[str, set[str]]:
    """TI-RADS class of a case, and the numbers of the images that have polygons.

    Raises:
        DataError: the XML cannot be read.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_XML_BYTES)
        case = ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"the case's XML cannot be read: {error}") from None
    marks = [(mark.findtext("image") or "", mark.findtext("svg") or "") for mark in case.iter("mark")]
    marked = {image.strip().lstrip("0") for image, polygons in marks if polygons.strip() not in ("", "[]")}
    return (case.findtext("tirads") or "").strip(), marked


DDTI = Source(
    name="ddti",
    title="DDTI (Pedraza et al., Proc. SPIE 9287, 2015)",
    layout="12.xml (tirads, mark/image, mark/svg polygons) beside 12_1.jpg, 12_2.jpg, all in one folder",
    licence="",
    check=check,
    items=items,
    organ="thyroid",
)
