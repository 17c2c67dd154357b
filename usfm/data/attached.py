"""What a source gives along with an image: label masks, and the same view in high quality (enhancement pairs).

A bad one costs itself, never the image: it becomes a `Rejected` with its reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from usfm.data.readers.decode import beside, file_bytes, read_bytes
from usfm.data.readers.frames import Frame, FrameSelection
from usfm.data.readers.label_masks import fit_mask, masks_each_frame, read_masks
from usfm.data.schema import Item, Rejected
from usfm.errors import UnreadableFile

__all__ = ["Labels", "read_labels", "read_pair"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Labels:
    """Masks (H, W) of an item's frames by the frame's number, and the name of each class but 0."""

    masks: dict[int, Pixels] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def anywhere(self) -> Pixels | None:
        """(H, W) not 0 where any frame has a label; None without masks, or with masks of several sizes."""
        masks = list(self.masks.values())
        if not masks or any(mask.shape != masks[0].shape for mask in masks):
            return None
        united: Pixels = np.maximum.reduce(masks)
        return united


def read_labels(item: Item, frames: Sequence[Frame]) -> tuple[Labels, list[Rejected]]:
    """The masks of an item's frames, each of its frame's size."""
    labels, rejected = Labels(), list[Rejected]()
    if not item.mask_path:
        return labels, rejected
    each = masks_each_frame(item.mask_kind)
    if len(frames) > 1 and not each:
        reason = f"one mask for a clip of {len(frames)} frames; give masks for single images"
        return labels, [Rejected(item.name, item.source, "mask", reason)]
    for frame in frames:
        height, width = frame.pixels.shape
        try:
            mask, names = read_masks(item.mask_path, item.mask_kind, (height, width), file_bytes, frame.index)
            labels.masks[frame.index] = fit_mask(mask, (height, width), (height, width))
            labels.names.update(names)
        except UnreadableFile as error:
            name = f"{item.name}#{frame.index}" if each else item.name
            rejected.append(Rejected(name, item.source, "mask", str(error)))
    return labels, rejected


def read_pair(item: Item, frames: Sequence[Frame]) -> tuple[Pixels | None, list[Rejected]]:
    """The high-quality view of a single image, (H, W) of its size, or None."""
    if not item.pair_path:
        return None, []
    try:
        if len(frames) > 1:
            raise UnreadableFile(f"one high-quality image for a clip of {len(frames)} frames; give single images")
        place, size = item.pair_path, frames[0].pixels.shape
        pair = read_bytes(file_bytes(place), place, FrameSelection(max_frames=1), sidecar=beside(place))[0].pixels
        if pair.shape != size:
            raise UnreadableFile(
                f"the high-quality image has {pair.shape[1]} x {pair.shape[0]} pixels, "
                f"its image {size[1]} x {size[0]}; both must show the same pixels"
            )
    except UnreadableFile as error:
        return None, [Rejected(item.name, item.source, "pair", str(error))]
    return pair, []
