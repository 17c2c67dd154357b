"""One item to rows: read, clean, crop mask and pair alike, shrink, encode; spacing, group, hashes, flags.

A pure function of the item's files and the configuration. What cannot be used comes back as `Rejected`;
a bad mask costs the mask, not the image.
"""

import hashlib
import json
import os
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from usfm.config import Config
from usfm.data.attached import Labels, read_labels, read_pair
from usfm.data.cleaning.clean import Cleaned, clean, cut
from usfm.data.cleaning.config import CleanConfig
from usfm.data.cleaning.hashes import perceptual_hash, thumbnail
from usfm.data.cleaning.text import paint_over
from usfm.data.codec import encode_grey
from usfm.data.readers.decode import beside, file_bytes, read_bytes
from usfm.data.readers.frames import Frame, FrameSelection
from usfm.data.readers.label_masks import fit_mask
from usfm.data.readers.volume_headers import Sidecar
from usfm.data.schema import ROW_SCHEMA, Item, Rejected
from usfm.errors import UnreadableFile

__all__ = ["GROUP_KEY_VARIABLE", "PrepareConfig", "Rejected", "group_key", "prepare", "shrink"]

GROUP_KEY_VARIABLE = "USFM_GROUP_KEY"
DEFAULT_GROUP_KEY = "usfm"
Row = dict[str, Any]


class PrepareConfig(Config):
    """How an item becomes rows.

    Attributes:
        longest_side_px: longer side of a stored image; larger ones shrink, smaller ones stay as they are.
        frames: which frames of a clip are taken.
        clean: which steps of the cleaning are on.
        encoding: "png" is lossless; "jpeg" takes about a quarter of the space.
        jpeg_quality: used with "jpeg".
    """

    longest_side_px: int = Field(default=256, ge=16, le=4096)
    frames: FrameSelection = FrameSelection()
    clean: CleanConfig = CleanConfig()
    encoding: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = Field(default=95, ge=1, le=100)


def prepare(item: Item, config: PrepareConfig) -> tuple[list[Row], list[Rejected]]:
    """Rows of `ROW_SCHEMA` from one item, one per frame, and what was refused with its reason."""
    try:
        data = file_bytes(item.path)
        digest = hashlib.sha256(data).hexdigest()
        if item.sha256 and item.sha256 != digest:
            raise UnreadableFile(f"SHA-256 is {digest[:12]}..., the manifest states {item.sha256[:12]}...")
        detached: list[bytes] = []
        frames = read_bytes(data, item.name, config.frames, item.frame, _recorded(beside(item.path), detached))
        if detached:  # headers alone may be equal where their samples are not
            digest = hashlib.sha256(b"".join([digest.encode(), *detached])).hexdigest()
    except UnreadableFile as error:
        return [], [Rejected(item.name, item.source, "file", str(error))]
    labels, rejected = read_labels(item, frames)
    pair, bad_pair = read_pair(item, frames)
    rejected += bad_pair
    group = group_key(item, frames[0].patient)
    rows: list[Row] = []
    for frame, cleaned in zip(frames, clean(frames, config.clean, labels.anywhere()), strict=True):
        if cleaned.refusal:
            rejected.append(Rejected(f"{item.name}#{frame.index}", item.source, "frame", cleaned.refusal))
            continue
        row = _row(item, frame, cleaned, labels, pair, config)
        rows.append(row | {"group": group, "source_sha256": digest})
    return [{name: row[name] for name in ROW_SCHEMA.names} for row in rows], rejected


def _recorded(sidecar: Sidecar, read: list[bytes]) -> Sidecar:
    """The same, and the hash of every file that it gives is noted."""

    def fetch(name: str) -> bytes:
        data = sidecar(name)
        read.append(hashlib.sha256(data).digest())
        return data

    return fetch


def _row(
    item: Item,
    frame: Frame,
    cleaned: Cleaned,
    labels: Labels,
    pair: npt.NDArray[np.uint8] | None,
    config: PrepareConfig,
) -> Row:
    """All of a row but its group and its file's hash."""
    stored = shrink(cleaned.pixels, config.longest_side_px)
    scale = max(stored.shape) / max(cleaned.pixels.shape)
    spacing = item.spacing_mm or frame.spacing_mm
    painted = cleaned.drawn if cleaned.painted else None
    row: Row = {
        "id": f"{item.source}/{item.name}#{frame.index}",
        "organ": item.organ,
        "source": item.source,
        "device": item.device or frame.device,
        "split": "",  # given when all groups are known, see `usfm.data.assemble`
        "label": item.label,
        "image": encode_grey(stored, config.encoding, config.jpeg_quality),
        "height": stored.shape[0],
        "width": stored.shape[1],
        "mask": None,
        "mask_classes": "",
        "pair": None,
        "spacing_mm": spacing / scale if spacing else None,
        "source_height": frame.pixels.shape[0],
        "source_width": frame.pixels.shape[1],
        "crop": list(cleaned.box),
        "text_px": 0 if painted is None else max(1, round(float(painted.mean()) * stored.size)),
        "flags": " ".join(cleaned.flags),
        "phash": perceptual_hash(stored),
        "thumbnail": thumbnail(stored),
        "frame": frame.index,
        "licence": item.licence,
        "origin": item.origin,
    }
    mask = labels.masks.get(frame.index)
    if mask is not None:
        kept = cut(mask, cleaned.box)
        size = (kept.shape[0], kept.shape[1])
        row["mask"] = encode_grey(fit_mask(kept, size, (stored.shape[0], stored.shape[1])), "png")
        row["mask_classes"] = json.dumps({str(number): name for number, name in labels.names.items()})
    if pair is not None:
        better = cut(pair, cleaned.box)
        better = better if painted is None else paint_over(better, painted)
        row["pair"] = encode_grey(shrink(better, config.longest_side_px), config.encoding, config.jpeg_quality)
    return row


def shrink(pixels: npt.NDArray[np.uint8], longest_side_px: int) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 with its longer side at most `longest_side_px`, proportions kept, averaged over areas."""
    height, width = pixels.shape
    scale = longest_side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: npt.NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small


def group_key(item: Item, patient: str) -> str:
    """The group of an item's rows: "<source>/<group>", or "" where no group is known.

    A file that names a patient (DICOM) and has no group of its own gets a keyed hash of that identifier, so
    that one patient's files stay together and the identifier itself never reaches a shard. The key comes
    from the environment variable `USFM_GROUP_KEY`; keep one of your own secret, since short identifiers can
    be guessed by whoever knows the key. With a key of your own the groups that a source states are hashed, too:
    a manifest's may be the hospital's patient numbers.
    """
    secret = os.environ.get(GROUP_KEY_VARIABLE, "")
    group = "" if item.group.lower().startswith("unknown") else item.group
    if (group and secret) or (not group and patient):
        key = (secret or DEFAULT_GROUP_KEY).encode()
        key = key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()
        digest = hashlib.blake2b((group or patient).encode(), key=key, digest_size=12).hexdigest()
        group = f"{'group' if group else 'patient'}-{digest}"
    return f"{item.source}/{group}" if group else ""
