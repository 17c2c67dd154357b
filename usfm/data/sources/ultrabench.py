"""UltraBench: public sets brought into one form, with a published split (Tupper and Gagne, arXiv 2501.13193, 2025).

Known: a folder `<set>_v<version>` per task with `train.json`, `validation.json`, `test.json` (GBCU:
`train_val.json`, `test.json`), each an array of objects with `image` (relative to that folder),
masks under keys ending in `_mask`, `label`, and where the set has them `pathology` or `class`, and `patient` or the
clip's `source`. Masks hold class numbers. `scan_mask` is the field of view and is not read.
Also read, for lists of one's own in this manner: a CSV with the columns path (or image), label and split.
"""

import json
from collections.abc import Iterator
from typing import Any

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.class_folders import SPLIT_FOLDERS
from usfm.data.sources.columns import read_columns, read_table
from usfm.data.sources.found import Source
from usfm.data.sources.names import name_problem, posix, printable
from usfm.data.sources.tree import folder_names, some_files
from usfm.errors import DataError

__all__ = ["ULTRABENCH"]

SPLIT_FILES = {"train.json": "train", "train_val.json": "train", "validation.json": "val", "test.json": "test"}
COLUMNS = ("label", "split")
ORGANS = {
    "aul": "liver",
    "camus": "heart",
    "fatty_liver": "liver",
    "gbcu": "gallbladder",
    "mmotu": "ovary",
    "open_kidney": "kidney",
    "pocus": "lung",
    "psfhs": "fetal_head",
    "stanford_thyroid": "thyroid",
}
CLASS_ORGANS = {
    "2ch": "heart",
    "4ch": "heart",
    "plax": "heart",
    "lungs": "lung",
}  # Butterfly: the class is the region
MASKS = {
    "mask": "index png: 0 bg, 1 left ventricle, 2 myocardium, 3 left atrium",  # CAMUS
    "liver_mask": "index png: 0 bg, 1 liver",
    "mass_mask": "index png: 0 bg, 1 mass",
    "tumor_mask": "index png: 0 bg, 1 nodule",
    "tumor_mask_multiclass": "index png: 0 bg, 1 chocolate cyst, 2 serous cystadenoma, 3 teratoma, "
    "4 theca cell tumor, 5 simple cyst, 6 normal ovary, 7 mucinous cystadenoma, 8 high grade serous",
    "psfh_mask": "index png: 0 bg, 1 pubic symphysis, 2 fetal head",
    "capsule_mask": "index png: 0 bg, 1 capsule",
}


def check(root: UPath) -> None:
    """A set's folder, or a folder of such, with lists of its parts.

    Raises:
        DataError: there is none.
    """
    if not _sets(root):
        raise DataError(f"{root} has no train.json beside test.json, and no list.csv; expected {ULTRABENCH.layout}")


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per object or line of the lists."""
    for name in _sets(root):
        folder = root / name if name else root
        known = (name or root.name).lower()
        organ = next((organ for prefix, organ in ORGANS.items() if known.startswith(prefix)), "")
        for file in sorted(some_files(folder)):
            if file in SPLIT_FILES:
                for example in _examples(folder / file):
                    yield from _entries(folder, name, organ, example, SPLIT_FILES[file])
            elif _is_list(folder, file):
                for line in read_table(folder / file, COLUMNS):
                    split = SPLIT_FOLDERS.get(line["split"].lower(), "")
                    yield from _entries(folder, name, organ, line, split)


def _entries(
    folder: UPath, name: str, organ: str, example: dict[str, Any], split: str
) -> Iterator[Item | Rejected]:
    def text(*keys: str) -> str:
        return next((str(example[key]).strip() for key in keys if example.get(key) not in (None, "")), "")

    image = posix(text("image", "path"))
    whole = f"{name}/{image}" if name else image
    key = next((key for key in MASKS if isinstance(example.get(key), str) and example[key]), "")
    mask = posix(text(key)) if key else ""
    if reason := "the list states no image" if not image else name_problem(image):
        yield Rejected(printable(whole), "", "file", reason)
        return
    if reason := name_problem(mask):
        yield Rejected(whole, "", "mask", reason)
        mask = ""
    region = text("class").lower()
    patient = text("patient", "source")
    yield Item(
        path=str(folder / image),
        name=whole,
        organ=text("organ") or organ or CLASS_ORGANS.get(region, region),
        label=text("pathology", "class", "label"),
        mask_path=str(folder / mask) if mask else "",
        mask_kind=MASKS[key] if mask else "",
        group=f"{name}/{patient}".strip("/") if patient else "unknown",
        official_split=split,
    )


def _examples(path: UPath) -> list[dict[str, Any]]:
    try:
        examples = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no JSON list: {error}") from None
    if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
        raise DataError(f"{path} is no JSON array of objects, as UltraBench writes it")
    return examples


def _sets(root: UPath) -> list[str]:
    """Folders with lists, "" for the root itself."""
    if _has_lists(root):
        return [""]
    return [name for name in folder_names(root)[:100] if _has_lists(root / name)]


def _has_lists(folder: UPath) -> bool:
    files = some_files(folder)
    jsons = SPLIT_FILES.keys() & set(files)
    return ("test.json" in jsons and len(jsons) > 1) or any(_is_list(folder, file) for file in files)


def _is_list(folder: UPath, file: str) -> bool:
    if not file.lower().endswith(".csv"):
        return False
    try:
        columns = read_columns(folder / file, COLUMNS)
    except DataError:
        return False
    return bool({"path", "image"} & set(columns)) and "licence" not in columns


ULTRABENCH = Source(
    name="ultrabench",
    title="UltraBench (Tupper and Gagne, arXiv 2501.13193)",
    layout="[<set>_v1/]train.json, validation.json, test.json: arrays of {image, label, ...}; or list.csv "
    "(path, label, split)",
    licence="",
    check=check,
    items=items,
    organ="by set",
)
