"""What an item of an archive is, and what a row of a shard is.

An `Item` names one file to read and what its source says of it. A row holds one grey image, ready for
training, with everything that is known of where it came from.
"""

from dataclasses import dataclass

import pyarrow as pa

__all__ = ["FLAGS", "ROW_SCHEMA", "SCHEMA_VERSION", "SPLITS", "THUMBNAIL_PX", "Item", "Rejected"]

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
THUMBNAIL_PX = 16
FLAGS = {
    "doppler": "colour or power Doppler covers part of the image",
    "frozen": "the same picture as the frame before it",
    "text": "burned-in text or a ruler was found inside the kept region",
    "burned_in_stated": "the file's own header says that text is burned in (DICOM BurnedInAnnotation)",
}


@dataclass(frozen=True)
class Item:
    """One file of an archive before it is read, or one frame of it.

    Attributes:
        path: where the file lies: a local path or any URL that fsspec opens (see `usfm.data.location`).
        name: `path` relative to the archive's root, with forward slashes; part of every row id.
        organ: organ name in the source's words, lower case with underscores.
        label: the source's own label, "" where there is none.
        mask_path: the mask file (or the table that holds it), several as "a|b", "" where there is none.
        mask_kind: how to read the mask (see `usfm.data.readers.label_masks`), "" without a mask.
        group: patient, volunteer or clip; splits never cut a group. "" or "unknown..." = not known.
        spacing_mm: pixel size of the file's image, None where unknown.
        source: name of the data set.
        licence: licence of this very file.
        origin: where the source got it (provenance, free text).
        sha256: expected SHA-256 of the file in hex, "" = not stated. A mismatch quarantines the item.
        device: scanner (maker and model) as the source states it, "" = not stated; DICOM states its own.
        frame: number of the one frame that is meant; None = the reader selects frames.
        pair_path: file of the same size that shows the same view in high quality (enhancement pairs), or "".
        official_split: "train", "val" or "test" where the source publishes a split, else "".
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
    device: str = ""
    frame: int | None = None
    pair_path: str = ""
    official_split: str = ""


@dataclass(frozen=True)
class Rejected:
    """One thing that ingest did not take, for the quarantine table.

    Attributes:
        name: the item's name, with `#frame` where one frame is meant.
        source: name of the data set.
        kind: "file", "mask" or "pair" (the image was kept without it), "frame", "duplicate" (same bytes),
            "near_duplicate", or "ignored" (not a medium at all; counted, not listed).
        reason: what was found, and where it helps what to do.
    """

    name: str
    source: str
    kind: str
    reason: str


ROW_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # "<source>/<name>#<frame>", unique in a set of shards
        ("organ", pa.string()),
        ("source", pa.string()),
        ("device", pa.string()),  # scanner, "" = not known
        ("group", pa.string()),  # "<source>/<group>", "" = not known
        ("split", pa.string()),  # one of SPLITS
        ("label", pa.string()),
        ("image", pa.binary()),  # encoded grey image (PNG or JPEG)
        ("height", pa.int32()),  # of the stored image, px
        ("width", pa.int32()),
        ("mask", pa.binary()),  # PNG of class indices, same size as the image; null = no mask
        ("mask_classes", pa.string()),  # JSON {"1": "nerve", ...}; "" = no mask
        ("pair", pa.binary()),  # encoded grey image of the same size in high quality; null = none
        ("spacing_mm", pa.float64()),  # mm per stored pixel; null = not known
        ("source_height", pa.int32()),  # of the file's image, px
        ("source_width", pa.int32()),
        ("crop", pa.list_(pa.int32(), 4)),  # top, left, height, width of what was kept, px of the file's image
        ("text_px", pa.int32()),  # stored pixels that were painted over as burned-in text or ruler
        ("flags", pa.string()),  # names of FLAGS, space-separated, "" = none
        ("phash", pa.int64()),  # perceptual hash of the stored image, 64 bits
        ("thumbnail", pa.binary(THUMBNAIL_PX**2)),  # (16, 16) uint8, area mean of the stored image
        ("frame", pa.int32()),  # 0 for still images
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("source_sha256", pa.string()),  # of the source file's bytes (of a header and its samples together)
    ],
    metadata={"usfm_schema_version": str(SCHEMA_VERSION)},
)
