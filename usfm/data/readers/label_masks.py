"""Label masks of many sources to one form: class numbers in uint8, 0 = background, with names.

The text of `mask_kind` says how to read a mask; `KINDS` is the table of the forms that are known:

| text begins with | example | classes |
|---|---|---|
| binary | "binary png 0/255 head ellipse (filled)" | above 127 = 1, named by the text |
| jpg | "jpg, threshold >127: union of LV+LA" | above the threshold = 1, named behind the colon |
| outline | "outline png: head" | a closed contour, filled = 1 |
| index volume | "index volume frame=each: 0 bg, 1 lv" | the stored numbers of a NIfTI, MHA or MHD file |
| index | "index png: 0 bg, 1 nerve, 2 vessel (inferred)" | the stored numbers, each named |
| RGB | "RGB png: green benign, red malignant" | colours, numbered in the order of the text |
| colours | "colours png: #400000 cyst, #004000 teratoma" | exact colours, numbered in the order of the text |
| layers | "layers, threshold >127: aponeurosis, fascicle" | one binary file per class, later over earlier |
| polygons json | "polygons json: liver, mass" | one file `[[x, y], ...]` per class, later over earlier |
| polygons ddti-xml | "polygons ddti-xml image=2: nodule" | see `polygons.ddti_polygons` |
| polygons kidneyus-csv | "polygons kidneyus-csv file=1.png: capsule, cortex" | later names over earlier ones |
| polygons echonet-csv | "polygons echonet-csv file=a.avi frame=46: left ventricle" | the traced outline = 1 |

`frame=<n>` is one frame of a sequence, `frame=each` the one that has the number of the image's frame. Several files
for one image (`a|b`) are united, or are the classes of `layers` and `polygons json` in their order, where an empty
place (`|b`) is a class that was not annotated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from usfm.data.location import locate
from usfm.data.readers import mask_pictures
from usfm.data.readers.mask_kinds import (
    Mask,
    MaskFile,
    Names,
    checked,
    class_names,
    index_names,
    number,
    option,
)
from usfm.data.readers.polygons import (
    Points,
    ddti_polygons,
    echonet_tracings,
    fill,
    json_polygon,
    kidneyus_regions,
    tracing_outline,
)
from usfm.data.readers.volumes import read_volume
from usfm.errors import DataError, UnreadableFile

__all__ = ["KINDS", "fit_mask", "masks_each_frame", "read_mask", "read_masks"]

MASKS_SEPARATOR = "|"
TABLES_KEPT = 4


def read_mask(
    data: bytes,
    kind: str,
    size: tuple[int, int] | None = None,
    name: str = "",
    sidecar: Any = None,
    frame: int | None = None,
) -> tuple[Mask, Names]:
    """Decode one mask file.

    Args:
        data: the whole file.
        kind: the manifest's `mask_kind`.
        size: height and width of the image that the mask belongs to; polygons need it.
        name: the file's name, which tells the formats of volumes apart.
        sidecar: gives the bytes of the file that a volume's header names, see `usfm.data.readers.volumes`.
        frame: number of the image's frame, for masks of sequences (`frame=each`).

    Returns:
        (H, W) uint8 class numbers, and the name of each class but 0.

    Raises:
        UnreadableFile: an unknown kind, a damaged file, or values that the kind does not name.
    """
    reader = next((read for prefix, read in KINDS.items() if kind.lower().startswith(prefix)), None)
    if reader is None:
        raise UnreadableFile(f"unknown mask_kind {kind!r}; known ones begin with {', '.join(KINDS)}")
    if not data:
        raise UnreadableFile("the mask file is empty (0 bytes)")
    try:
        return reader(MaskFile(data, kind, size, name, sidecar, frame))
    except UnreadableFile:
        raise
    except Exception as error:  # the boundary to foreign decoders, as in `usfm.data.readers.decode`
        message = " ".join(str(error).split())[:200]
        raise UnreadableFile(f"damaged mask: {type(error).__name__}: {message}") from None


def read_masks(
    paths: str,
    kind: str,
    size: tuple[int, int] | None,
    read_bytes: Callable[[str], bytes],
    frame: int | None = None,
) -> tuple[Mask, Names]:
    """Read the mask of an image from its file or files.

    Args:
        paths: `Item.mask_path`: a location, or several with `|` between them.
        kind: `Item.mask_kind`.
        size: height and width of the image.
        read_bytes: gives the bytes of a location, raises `UnreadableFile`. Tables for a whole data set are
            read once per process and kept, until their size or time changes.
        frame: number of the image's frame, for masks of sequences.

    Returns:
        As `read_mask`. Classes whose file is not given are not named.

    Raises:
        UnreadableFile: as `read_mask`; files of different sizes, or of a kind that cannot be united.
    """
    low = kind.lower()
    layered = low.startswith(("layers", "polygons json"))
    table = low.startswith(("polygons kidneyus-csv", "polygons echonet-csv"))
    places = paths.split(MASKS_SEPARATOR)
    if len(places) > 1 and not (layered or low.startswith(("binary", "jpg"))):
        raise UnreadableFile(f"{len(places)} mask files of kind {kind!r}; only binary masks and layers are united")
    united: Mask | None = None
    names: Names = {}
    for place, path in enumerate(places, 1):
        if not path:
            continue
        data = _table_bytes(path, read_bytes) if table else read_bytes(path)
        sidecar = partial(_beside, path, read_bytes)
        mask, classes = read_mask(data, kind, size, locate(path).name, sidecar, frame)
        if layered:
            if place not in classes:
                raise UnreadableFile(
                    f"{len(places)} mask files, but mask_kind {kind!r} names {len(classes)} classes"
                )
            mask, classes = mask * np.uint8(place), {place: classes[place]}
        names |= classes
        if united is not None and united.shape != mask.shape:
            raise UnreadableFile(
                f"the mask's files have different sizes: {united.shape} and {mask.shape} px (H, W)"
            )
        united = mask if united is None else np.where(mask > 0, mask, united)
    if united is None:
        raise UnreadableFile("no mask file is given")
    return united, names


def masks_each_frame(kind: str) -> bool:
    """Whether the mask file is a sequence with a mask for each frame of the image's file."""
    return option(kind, "frame") == "each"


def fit_mask(mask: Mask, source_size: tuple[int, int], stored_size: tuple[int, int]) -> Mask:
    """Bring a mask to the size of the stored image, without mixing classes.

    Args:
        mask: (H, W) class numbers.
        source_size: height and width of the image in its file.
        stored_size: height and width of the image as stored.

    Raises:
        UnreadableFile: the mask has other proportions than the image, so it cannot lie on it.
    """
    height, width = source_size
    mask_height, mask_width = mask.shape
    # one pixel of rounding is allowed, on the longer side's scale
    if abs(mask_height * width - mask_width * height) > max(height, width, mask_height, mask_width):
        raise UnreadableFile(
            f"the mask has {mask_width} x {mask_height} pixels, its image {width} x {height}: other proportions"
        )
    if mask.shape == stored_size:
        return mask
    size = (stored_size[1], stored_size[0])
    # EXACT samples at pixel centres, as the image's area resize does; plain NEAREST is half a pixel off
    fitted: Mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return fitted


def _index_volume(file: MaskFile) -> tuple[Mask, Names]:
    names = index_names(file.kind)
    volume, _ = read_volume(file.data, file.name, file.sidecar)
    if volume.ndim != 3:
        raise UnreadableFile("an index mask has one channel of numbers, this volume has several")
    frame = file.mask_frame()
    if frame is None and len(volume) > 1:
        raise UnreadableFile(f"the mask has {len(volume)} frames; say which one: mask_kind with frame=<n> or each")
    if (frame or 0) >= len(volume):
        raise UnreadableFile(f"the mask has {len(volume)} frames, none with number {frame}")
    return checked(volume[frame or 0], names)


def _json_polygon(file: MaskFile) -> tuple[Mask, Names]:
    return fill([(1, json_polygon(file.data))], file.known_size()), class_names(file.kind)


def _ddti(file: MaskFile) -> tuple[Mask, Names]:
    shapes = ddti_polygons(file.data, number(file.kind, "image"))
    return fill([(1, points) for points in shapes], file.known_size()), class_names(file.kind)


def _kidneyus(file: MaskFile) -> tuple[Mask, Names]:
    names = class_names(file.kind)
    image = option(file.kind, "file")
    regions = kidneyus_regions(file.data).get(image)
    if regions is None:
        raise UnreadableFile(f"the polygons' table has no line for the image {image!r}")
    shapes: list[tuple[int, Points]] = []
    for key, name in names.items():  # in the order of the text: the parts lie over the whole
        shapes += [(key, points) for anatomy, points in regions if anatomy == name]
    return fill(shapes, file.known_size()), names


def _echonet(file: MaskFile) -> tuple[Mask, Names]:
    video, frame = option(file.kind, "file"), file.mask_frame()
    tracings = echonet_tracings(file.data).get(video, {})
    if frame is None or frame not in tracings:
        raise UnreadableFile(f"frame {frame} of {video!r} has no tracing; traced: {sorted(tracings) or 'none'}")
    return fill([(1, tracing_outline(tracings[frame]))], file.known_size()), class_names(file.kind)


KINDS: dict[str, Callable[[MaskFile], tuple[Mask, Names]]] = {
    "binary": mask_pictures.binary,
    "jpg": mask_pictures.threshold,
    "outline": mask_pictures.outline,
    "index volume": _index_volume,
    "index": mask_pictures.index,
    "rgb": mask_pictures.named_colours,
    "colours": mask_pictures.colours,
    "layers": mask_pictures.layer,
    "polygons json": _json_polygon,
    "polygons ddti-xml": _ddti,
    "polygons kidneyus-csv": _kidneyus,
    "polygons echonet-csv": _echonet,
}
_tables: dict[str, tuple[str, bytes]] = {}


def _table_bytes(path: str, read_bytes: Callable[[str], bytes]) -> bytes:
    """The bytes of a table, read again only when its size or time (or checksum, in an archive) has changed.

    It is the same object every time, whose hash is known, so that the parsed table is found at once too.
    """
    try:
        status = locate(path).stat()
    except (OSError, DataError):
        return read_bytes(path)
    facts: dict[str, Any] = getattr(status, "as_info", dict)()
    stamp = f"{status.st_size} {status.st_mtime_ns} {sorted(facts.items(), key=str)}"
    kept = _tables.pop(path, None)
    if kept is None or kept[0] != stamp:
        kept = (stamp, read_bytes(path))
        while len(_tables) >= TABLES_KEPT:
            _tables.pop(next(iter(_tables)))
    _tables[path] = kept
    return kept[1]


def _beside(path: str, read_bytes: Callable[[str], bytes], name: str) -> bytes:
    """The bytes of another file of the same folder."""
    return read_bytes(str(locate(path).parent / name))
