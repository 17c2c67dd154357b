"""TN3K, thyroid nodules (Gong et al., ISBI 2021; Computers in Biology and Medicine 155, 2023).

Known: `trainval-image/0000.jpg`, `trainval-mask/0000.jpg` (0/255, JPEG), `test-image`, `test-mask`, and
`tn3k-trainval-fold0.json` with {"train": [numbers], "val": [numbers]} of trainval; 2,879 and 614 images. Some
copies add `label4trainval.csv` and `label4test.csv` (`0000.jpg,0`; 0 benign, 1 malignant: Xing et al. 2022). There
are no patient identifiers. Fold 0 is taken as the split.
"""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from upath import UPath

from usfm.data.schema import Item, Rejected
from usfm.data.sources.folder import ignored
from usfm.data.sources.found import Source
from usfm.data.sources.layout import base_folder, by_stem, child
from usfm.data.sources.tree import Folder
from usfm.errors import DataError

__all__ = ["TN3K"]

FOLD = "tn3k-trainval-fold0.json"
LABELS = {"0": "benign", "1": "malignant"}
LABEL_LINE = re.compile(r"\s*([^,]+?)\s*,\s*(\d)\s*")
STILL = (".jpg", ".jpeg", ".png")


def check(root: UPath) -> None:
    """The folder of training images.

    Raises:
        DataError: it is missing.
    """
    _base(root)


def items(root: UPath) -> Iterator[Item | Rejected]:
    """One item per image, with its mask, its split and its label where the copy has them."""
    base = _base(root)
    validation = _validation(base)
    for part in ("trainval", "test"):
        if f"{part}-image" not in base.folders:
            continue
        folder = child(base, f"{part}-image")
        yield from folder.refused
        masks = by_stem(child(base, f"{part}-mask").files) if f"{part}-mask" in base.folders else {}
        labels = _labels(base, f"label4{part}.csv")
        for file in folder.files:
            stem = PurePosixPath(file).stem
            if not file.lower().endswith(STILL):
                yield ignored(folder.of(file))
                continue
            mask = masks.get(stem, "")
            yield Item(
                path=str(folder.path / file),
                name=folder.of(file),
                organ="thyroid",
                label=labels.get(stem, ""),
                mask_path=str(base.path / f"{part}-mask" / mask) if mask else "",
                mask_kind="jpg, threshold >127: nodule" if mask else "",
                group="unknown",
                official_split=_split(part, stem, validation),
            )


def _split(part: str, stem: str, validation: set[int] | None) -> str:
    if part == "test":
        return "test"
    if validation is None or not stem.isdigit():
        return ""
    return "val" if int(stem) in validation else "train"


def _validation(base: Folder) -> set[int] | None:
    """Numbers of the validation images, None without a fold file."""
    if FOLD not in base.files:
        return None
    path = base.path / FOLD
    try:
        folds = json.loads(path.read_bytes())
        return {int(PurePosixPath(str(name)).stem) for name in folds["val"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no fold file: {error}; expected {{'train': [...], 'val': [...]}}") from None


def _labels(base: Folder, table: str) -> dict[str, str]:
    """Stem of an image -> its label, in words."""
    if table not in base.files:
        return {}
    lines = (base.path / table).read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    matches = map(LABEL_LINE.fullmatch, lines)
    return {PurePosixPath(match[1]).stem: LABELS.get(match[2], match[2]) for match in matches if match}


def _base(root: UPath) -> Folder:
    return base_folder(root, TN3K.title, TN3K.layout, ("trainval-image", "trainval-mask"))


TN3K = Source(
    name="tn3k",
    title="TN3K (Gong et al., ISBI 2021)",
    layout="trainval-image/0000.jpg, trainval-mask/0000.jpg, test-image/, test-mask/, tn3k-trainval-fold0.json",
    licence="",
    check=check,
    items=items,
    organ="thyroid",
)
