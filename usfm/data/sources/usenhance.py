"""USenhance 2023, pairs of low and high quality from hand-held and cart scanners (a MICCAI challenge).

Known: `train_datasets/<organ>/low_quality/1.png` and `.../high_quality/1.png` of the same name, organs breast,
carotid, kidney, liver, thyroid; 1,050 of the 1,500 pairs (109 patients) are public. Names do not tell the patient.
Assumed: a low-quality image without partner (the challenge's test inputs) is taken without a pair.
"""

from collections.abc import Iterator

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored, is_media
from usfm.data.sources.found import Source
from usfm.data.sources.tree import file_names, folder_names, list_folder
from usfm.errors import DataError

__all__ = ["USENHANCE"]

TOP = "train_datasets"
LOW, HIGH = "low_quality", "high_quality"


def check(root: UPath) -> None:
    """An organ's folder with both qualities.

    Raises:
        DataError: there is none.
    """
    if not any(_organs(root)):
        raise DataError(f"{root} has no <organ>/{LOW}/ and <organ>/{HIGH}/; expected {USENHANCE.layout}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per low-quality image, its partner as pair; a high-quality image alone is an item of its own."""
    for prefix, organ in _organs(root):
        place = root / prefix / organ if prefix else root / organ
        where = f"{prefix}/{organ}" if prefix else organ
        partners = set(file_names(place / HIGH))
        for quality in (LOW, HIGH):
            folder = list_folder(place / quality, f"{where}/{quality}")
            yield from folder.refused
            for file in folder.files:
                if not is_media(folder, file):
                    yield ignored(folder.of(file))
                elif quality == LOW or file in partners:
                    paired = quality == LOW and file in partners
                    partners.discard(file)
                    yield Item(
                        path=str(folder.path / file),
                        name=folder.of(file),
                        organ=organ,
                        group="unknown",
                        pair_path=str(place / HIGH / file) if paired else "",
                    )


def _organs(root: UPath) -> list[tuple[str, str]]:
    """(folder above, organ) of each organ's folder."""
    places = [("", root), (TOP, root / TOP)]
    return [
        (prefix, organ)
        for prefix, place in places
        for organ in folder_names(place)[:50]
        if (place / organ / LOW).is_dir() and (place / organ / HIGH).is_dir()
    ]


USENHANCE = Source(
    name="usenhance",
    title="USenhance 2023 (MICCAI challenge)",
    layout="[train_datasets/]<organ>/low_quality/1.png and <organ>/high_quality/1.png",
    licence="",
    check=check,
    items=items,
    organ="5 organs",
)
