"""What an item of an archive is, and what a row of a shard is.

An `Item` names one file to read and what its source says of it. A row holds one grey image, ready for
training, with everything that is known of where it came from.
"""

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["ROW_SCHEMA", "SCHEMA_VERSION", "SPLITS", "Item"]

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One file of an archive before it is read.

    Attributes:
        path: the file, absolute.
        name: `path` relative to the archive's root, with forward slashes; part of every row id.
        organ: organ name in the source's words, lower case with underscores.
        label: the source's own label, "" where there is none.
        mask_path: the mask file, absolute, "" where there is none.
        mask_kind: how to read the mask (see `usfm.data.label_masks`), "" without a mask.
        group: patient, volunteer or clip; splits never cut a group. "" or "unknown..." = not known.
        spacing_mm: pixel size of the file's image, None where unknown.
        source: name of the data set.
        licence: licence of this very file.
        origin: where the source got it (provenance, free text).
        sha256: expected SHA-256 of the file in hex, "" = not stated. A mismatch quarantines the item.
    """

    path: str
    name: str
    organ: str
    label: str = ""
    mask_path: str = ""
    mask_kind: str = ""
    group: str = ""
    spacing_mm: float | None = None
    source: str = ""
    licence: str = ""
    origin: str = ""
    sha256: str = ""


ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # "<source>/<name>#<frame>", unique in a set of shards
        ("organ", pa.string()),
        ("source", pa.string()),
        ("group", pa.string()),  # "<source>/<group>", "" = not known
        ("split", pa.string()),  # one of SPLITS
        ("label", pa.string()),
        ("image", pa.binary()),  # encoded grey image (PNG or JPEG)
        ("height", pa.int32()),  # of the stored image, px
        ("width", pa.int32()),
        ("mask", pa.binary()),  # PNG of class indices, same size as the image; null = no mask
        ("mask_classes", pa.string()),  # JSON {"1": "nerve", ...}; "" = no mask
        ("spacing_mm", pa.float64()),  # mm per stored pixel; null = not known
        ("source_height", pa.int32()),  # of the file's image, px
        ("source_width", pa.int32()),
        ("frame", pa.int32()),  # 0 for still images
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("source_sha256", pa.string()),  # of the source file's bytes
    ],
    metadata={"usfm_schema_version": str(SCHEMA_VERSION)},
)
