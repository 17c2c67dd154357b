"""One item to rows: read, check, turn grey, shrink, encode, attach mask, spacing, group and split.

A pure function of the item's files and the configuration. What cannot be used comes back as `Rejected`;
a bad mask costs the mask, not the image.
"""

import hashlib
import json
import os
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from usfm.config import Config
from usfm.data.readers.decode import file_bytes, read_bytes
from usfm.data.readers.frames import Frame, FrameSelection
from usfm.data.readers.label_masks import fit_mask, read_mask
from usfm.data.schema import THUMBNAIL_PX, Item, Rejected
from usfm.errors import UnreadableFile

__all__ = ["GROUP_KEY_VARIABLE", "PrepareConfig", "Rejected", "encode_grey", "group_key", "prepare", "shrink"]

GROUP_KEY_VARIABLE = "USFM_GROUP_KEY"
DEFAULT_GROUP_KEY = "usfm"
Row = dict[str, Any]


class PrepareConfig(Config):
    """How an item becomes rows.

    Attributes:
        longest_side_px: longer side of a stored image; larger ones shrink, smaller ones stay as they are.
        frames: which frames of a clip are taken.
        encoding: "png" is lossless; "jpeg" takes about a quarter of the space.
        jpeg_quality: used with "jpeg".
        blank_std: frames whose grey levels have a smaller standard deviation (of 0..255) are refused.
    """

    longest_side_px: int = Field(default=256, ge=16, le=4096)
    frames: FrameSelection = FrameSelection()
    encoding: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    blank_std: float = Field(default=2.0, ge=0.0)


def prepare(item: Item, config: PrepareConfig) -> tuple[list[Row], list[Rejected]]:
    """Rows of `ROW_SCHEMA` from one item, one per frame, and what was refused with its reason."""
    try:
        data = file_bytes(item.path)
        digest = hashlib.sha256(data).hexdigest()
        if item.sha256 and item.sha256 != digest:
            raise UnreadableFile(f"SHA-256 is {digest[:12]}..., the manifest states {item.sha256[:12]}...")
        frames = read_bytes(data, item.name, config.frames, item.frame)
    except UnreadableFile as error:
        return [], [Rejected(item.name, item.source, "file", str(error))]

    rejected: list[Rejected] = []
    mask, names = _mask(item, frames, rejected)
    group = group_key(item, frames[0].patient)
    rows: list[Row] = []
    for frame in frames:
        spread = float(cv2.meanStdDev(frame.pixels)[1][0, 0])
        if spread < config.blank_std:
            reason = (
                f"blank frame: grey levels have a standard deviation of {spread:.2f}, below {config.blank_std:g}"
            )
            rejected.append(Rejected(f"{item.name}#{frame.index}", item.source, "frame", reason))
            continue
        stored = shrink(frame.pixels, config.longest_side_px)
        scale = max(stored.shape) / max(frame.pixels.shape)
        spacing = item.spacing_mm or frame.spacing_mm
        row: Row = {
            "id": f"{item.source}/{item.name}#{frame.index}",
            "organ": item.organ,
            "source": item.source,
            "device": item.device or frame.device,
            "group": group,
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
            "crop": [0, 0, *frame.pixels.shape],
            "text_px": 0,
            "flags": "",
            "phash": 0,
            "thumbnail": bytes(THUMBNAIL_PX**2),
            "frame": frame.index,
            "licence": item.licence,
            "origin": item.origin,
            "source_sha256": digest,
        }
        if mask is not None:
            fitted = fit_mask(mask, frame.pixels.shape, stored.shape)
            row["mask"] = encode_grey(fitted, "png")
            row["mask_classes"] = json.dumps({str(number): name for number, name in names.items()})
        rows.append(row)
    return rows, rejected


def shrink(pixels: npt.NDArray[np.uint8], longest_side_px: int) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 with its longer side at most `longest_side_px`, proportions kept, averaged over areas."""
    height, width = pixels.shape
    scale = longest_side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: npt.NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return small


def encode_grey(pixels: npt.NDArray[np.uint8], encoding: str, jpeg_quality: int = 95) -> bytes:
    """(H, W) uint8 as PNG or JPEG bytes; equal pixels give equal bytes."""
    stream = BytesIO()
    image = Image.fromarray(pixels)
    if encoding == "png":
        image.save(stream, "PNG", compress_level=3)  # 2.3 times faster than 6, a tenth larger
    else:
        image.save(stream, "JPEG", quality=jpeg_quality)
    return stream.getvalue()


def group_key(item: Item, patient: str) -> str:
    """The group of an item's rows: "<source>/<group>", or "" where no group is known.

    A file that names a patient (DICOM) and has no group of its own gets a keyed hash of that identifier, so
    that one patient's files stay together and the identifier itself never reaches a shard. The key comes
    from the environment variable `USFM_GROUP_KEY`; keep one of your own secret, since short identifiers can
    be guessed by whoever knows the key.
    """
    group = "" if item.group.lower().startswith("unknown") else item.group
    if not group and patient:
        key = os.environ.get(GROUP_KEY_VARIABLE, DEFAULT_GROUP_KEY).encode()[:64]
        group = "patient-" + hashlib.blake2b(patient.encode(), key=key, digest_size=12).hexdigest()
    return f"{item.source}/{group}" if group else ""


def _mask(
    item: Item, frames: list[Frame], rejected: list[Rejected]
) -> tuple[npt.NDArray[np.uint8] | None, dict[int, str]]:
    if not item.mask_path:
        return None, {}
    try:
        if len(frames) > 1:
            raise UnreadableFile(f"one mask for a clip of {len(frames)} frames; give masks for single images")
        mask, names = read_mask(file_bytes(item.mask_path), item.mask_kind)
        size = frames[0].pixels.shape
        fit_mask(mask, (size[0], size[1]), mask.shape)  # other proportions are found here, before any row
    except UnreadableFile as error:
        rejected.append(Rejected(item.name, item.source, "mask", str(error)))
        return None, {}
    return mask, names
