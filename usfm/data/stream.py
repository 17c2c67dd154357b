"""From a sample plan to arrays: read the rows that a range of the stream names, decode, put on a canvas."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from usfm.config import Config
from usfm.data.sampling import SamplePlan, SamplingConfig
from usfm.data.shards import ShardFile, ShardIndex, ShardReader
from usfm.errors import ShardError

__all__ = ["ImageStream", "StreamConfig", "decode_grey", "micro_batch_indices"]

Arrays = dict[str, npt.NDArray[np.int64] | npt.NDArray[np.uint8]]


class StreamConfig(Config):
    """What is streamed and in which shape.

    Attributes:
        shards: folder that `usfm ingest` wrote.
        split: the split to draw from.
        canvas_px: side of the square canvas on which each stored image lies, top left; at least the
            stored longest side.
        sampling: organ balance.
    """

    shards: str = "runs/shards"
    split: str = "train"
    canvas_px: int = Field(default=256, ge=16)
    sampling: SamplingConfig = SamplingConfig()


def decode_grey(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a stored image or mask to (H, W) uint8.

    Raises:
        ShardError: the bytes are not an image.
    """
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise ShardError(
            f"{len(data)} stored bytes are not an image; the shard is damaged, run `usfm ingest` again"
        )
    return pixels  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ImageStream:
    """The stream of a run: plan, index and reader. Pickles small; files open where it is used."""

    config: StreamConfig
    seed: int

    def __post_init__(self) -> None:
        index = ShardIndex.load(self.config.shards)
        sampling = self.config.sampling
        files = index.select(self.config.split, sampling.organs, sampling.exclude_organs)
        rows = {organ: [file.rows for file in of_organ] for organ, of_organ in files.items()}
        plan = SamplePlan(self.seed, rows, sampling.alpha, sampling.chunk_size)
        for name, value in {"_files": files, "_plan": plan, "_reader": ShardReader(self.config.shards)}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "fingerprint", index.fingerprint)

    def __reduce__(self) -> tuple[type, tuple[StreamConfig, int]]:
        return (ImageStream, (self.config, self.seed))

    _files: dict[str, list[ShardFile]] = None  # type: ignore[assignment]
    _plan: SamplePlan = None  # type: ignore[assignment]
    _reader: ShardReader = None  # type: ignore[assignment]
    fingerprint: str = ""

    @property
    def plan(self) -> SamplePlan:
        """The sample plan."""
        return self._plan

    @property
    def rows_by_organ(self) -> dict[str, int]:
        """Rows of the split by organ, in the order of organ numbers."""
        return {organ: sum(file.rows for file in files) for organ, files in self._files.items()}

    def read(self, index: npt.NDArray[np.int64]) -> Arrays:
        """Decode some samples.

        Args:
            index: (n,) global sample indices.

        Returns:
            index (n,), organ (n,), height (n,), width (n,) int64 and image (n, S, S) uint8; pixels right of
            `width` and below `height` are zero.

        Raises:
            ShardError: a shard is missing or damaged, or an image is larger than the canvas.
        """
        size = self.config.canvas_px
        at = self.plan.locate(index)
        image = np.zeros((len(at.index), size, size), np.uint8)
        height, width = np.empty_like(at.index), np.empty_like(at.index)
        for places, path in self._by_shard(at.organ, at.shard):
            encoded = self._reader.take(path, at.row[places], ["image"]).column("image")
            for place, data in zip(places, encoded, strict=True):
                pixels = decode_grey(data.as_buffer())
                if max(pixels.shape) > size:
                    raise ShardError(
                        f"{path} holds a {pixels.shape} image; set data.canvas_px to {max(pixels.shape)}"
                    )
                height[place], width[place] = pixels.shape
                image[place, : pixels.shape[0], : pixels.shape[1]] = pixels
        return {"index": at.index, "organ": at.organ, "height": height, "width": width, "image": image}

    def ids(self, index: npt.NDArray[np.int64]) -> list[str]:
        """Row ids of some samples, for reports to a person."""
        at = self.plan.locate(index)
        found = [""] * len(at.index)
        for places, path in self._by_shard(at.organ, at.shard):
            for place, row_id in zip(
                places, self._reader.take(path, at.row[places], ["id"]).column("id"), strict=True
            ):
                found[place] = row_id.as_py()
        return found

    def _by_shard(
        self, organ: npt.NDArray[np.int64], shard: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], str]]:
        for k, name in enumerate(self.plan.organs):
            for s in np.unique(shard[organ == k]):
                yield np.flatnonzero((organ == k) & (shard == s)), self._files[name][s].path


def micro_batch_indices(step: int, lane: int, lanes: int, micro_size: int) -> npt.NDArray[np.int64]:
    """Global sample indices of micro-batch `lane` of a step, (micro_size,).

    A global batch is `lanes` micro-batches in order; which worker computes a lane does not change it.
    """
    start = (step * lanes + lane) * micro_size
    return np.arange(start, start + micro_size, dtype=np.int64)
