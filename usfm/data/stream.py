"""From a sample plan to arrays: read the rows that a range of the stream names, decode, put on a canvas.

A shard that is missing or damaged, and an image that cannot be decoded, do not stop the stream: the sample is
replaced by another row of the same organ, by a rule that depends on the sample alone, and marked as replaced.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from usfm.config import Config
from usfm.data.codec import binary_column, decode_grey, try_decode, values
from usfm.data.sampling import SamplePlan, Samples
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.data.shards import ShardFile, ShardIndex
from usfm.data.shares import SamplingConfig, stratum_shares
from usfm.errors import ShardError

__all__ = ["FETCHED", "Arrays", "ImageStream", "StreamConfig", "micro_batch_indices"]

Ints = npt.NDArray[np.int64]
FETCHED = pa.schema(
    [("index", pa.int64()), ("organ", pa.int64()), ("replaced", pa.int64()), ("image", pa.binary())]
)
"""Columns of samples as they travel: the image is still encoded, a third of its decoded size or less."""
Arrays = dict[str, npt.NDArray[np.int64] | npt.NDArray[np.uint8]]
log = logging.getLogger(__name__)
TRIES = 16  # rows tried in one shard before the next shard's turn


class StreamConfig(Config):
    """What is streamed and in which shape.

    Attributes:
        shards: where `usfm ingest` wrote: a folder, or a URL of an object store.
        split: the split to draw from.
        canvas_px: side of the square canvas on which each stored image lies, top left; at least the
            stored longest side.
        sampling: organ balance.
        cache: where shards of an object store are kept while they are used.
    """

    shards: str = "runs/shards"
    split: str = "train"
    canvas_px: int = Field(default=256, ge=16)
    sampling: SamplingConfig = SamplingConfig()
    cache: CacheConfig = CacheConfig()


@dataclass(frozen=True)
class ImageStream:
    """The stream of a run: plan, index and reader. Pickles small; files open where it is used."""

    config: StreamConfig
    seed: int

    def __post_init__(self) -> None:
        index = ShardIndex.load(self.config.shards)
        sampling = self.config.sampling
        by_organ = index.select(self.config.split, sampling.organs, sampling.exclude_organs)
        strata: dict[tuple[str, str], list[ShardFile]] = {}
        for organ, files in by_organ.items():
            for file in files:
                within = "" if sampling.within == "rows" else getattr(file, sampling.within) or "not stated"
                strata.setdefault((organ, within), []).append(file)
        shares = stratum_shares({key: sum(f.rows for f in files) for key, files in strata.items()}, sampling)
        names = {key: "/".join(key).rstrip("/") for key in shares}  # a tape's name seeds it
        plan = SamplePlan(
            self.seed,
            {names[key]: [f.rows for f in strata[key]] for key in shares},
            {names[key]: share for key, share in shares.items()},
            sampling.chunk_size,
        )
        made = {
            "plan": plan,
            "fingerprint": index.fingerprint,
            "rows_by_organ": {organ: sum(f.rows for f in files) for organ, files in by_organ.items()},
            "organ_shares": {
                organ: sum(share for key, share in shares.items() if key[0] == organ) for organ in by_organ
            },
            "mean_row_bytes": sum(f.bytes for files in by_organ.values() for f in files)
            / sum(f.rows for files in by_organ.values() for f in files),
            "_tapes": [strata[key] for key in shares],
            "_organ_of_tape": np.array([list(by_organ).index(organ) for organ, _ in shares]),
            "_reader": ShardReader(self.config.shards, self.config.cache),
            "_damaged": set(),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, tuple[str, int, str]]:
        return (_of_process, (self.config.model_dump_json(), self.seed, self.fingerprint))

    plan: SamplePlan = None  # type: ignore[assignment]
    fingerprint: str = ""
    rows_by_organ: dict[str, int] = None  # type: ignore[assignment]
    """Rows of the split by organ, in the order of organ numbers."""
    organ_shares: dict[str, float] = None  # type: ignore[assignment]
    mean_row_bytes: float = 0.0
    """Of a row as stored, over all rows of the split."""
    _tapes: list[list[ShardFile]] = None  # type: ignore[assignment]
    _organ_of_tape: Ints = None  # type: ignore[assignment]
    _reader: ShardReader = None  # type: ignore[assignment]
    _damaged: set[str] = None  # type: ignore[assignment]

    def fetch(self, index: Ints) -> pa.RecordBatch:
        """Read some samples as they are stored, without decoding.

        Args:
            index: (n,) global sample indices.

        Returns:
            Columns of `FETCHED`: index, organ number, replaced (1 where the planned row's shard is missing or
            damaged and another row of the organ stands in for it), and the encoded image.

        Raises:
            ShardError: not one shard of an organ can be read.
            EnvironmentProblem: the storage does not answer.
        """
        at = self.plan.locate(index)
        encoded: list[memoryview] = [memoryview(b"")] * len(at.index)
        replaced = np.zeros_like(at.index)
        for places, tape, shard in _by_shard(at):
            column = self._column(self._tapes[tape][shard], "image")
            rows = at.row[places]
            if column is None:
                replaced[places] = 1
                found: Iterable[memoryview] = (self._stand_in(tape, shard, row) for row in rows.tolist())
            else:
                found = values(column, rows)
            for place, value in zip(places.tolist(), found, strict=True):
                encoded[place] = value
        numbers = [pa.array(column) for column in (at.index, self._organ_of_tape[at.tape], replaced)]
        return pa.RecordBatch.from_arrays([*numbers, binary_column(encoded)], schema=FETCHED)

    def decode(self, rows: pa.RecordBatch | pa.Table) -> Arrays:
        """Decode what `fetch` gave.

        Returns:
            index (n,), organ (n,), height (n,), width (n,), replaced (n,) int64 and image (n, S, S) uint8;
            pixels right of `width` and below `height` are zero. An image that cannot be decoded is replaced
            like one that cannot be read.

        Raises:
            ShardError: not one row of an organ can be read, or an image is larger than the canvas.
        """
        size = self.config.canvas_px
        index, organ, replaced = (rows.column(name).to_numpy().copy() for name in ("index", "organ", "replaced"))
        image = np.empty((len(index), size, size), np.uint8)
        height, width = np.empty_like(index), np.empty_like(index)
        for n, data in enumerate(values(rows.column("image"))):
            pixels = try_decode(data)
            if pixels is None:
                at = self.plan.locate(index[n : n + 1])
                pixels, replaced[n] = decode_grey(self._stand_in(at.tape[0], at.shard[0], int(at.row[0]))), 1
            h, w = pixels.shape
            if max(h, w) > size:
                raise ShardError(
                    f"{self.ids(index[n : n + 1])[0]} has {w} x {h} px; set data.canvas_px to {max(h, w)}"
                )
            image[n, :h, :w] = pixels
            image[n, :h, w:] = 0
            image[n, h:] = 0
            height[n], width[n] = h, w
        return {"index": index, "organ": organ, "height": height, "width": width, "replaced": replaced,
                "image": image}  # fmt: skip

    def read(self, index: Ints) -> Arrays:
        """`fetch` and `decode` in one."""
        return self.decode(self.fetch(index))

    def paths(self, index: Ints) -> list[str]:
        """Shards in which some samples are planned to lie, sorted, for reports to a person."""
        at = self.plan.locate(index)
        return sorted({self._tapes[tape][shard].path for _, tape, shard in _by_shard(at)})

    def ids(self, index: Ints) -> list[str]:
        """Row ids of some samples as planned, for reports to a person; "" where the shard cannot be read."""
        at = self.plan.locate(index)
        found = [""] * len(at.index)
        for places, tape, shard in _by_shard(at):
            if (column := self._column(self._tapes[tape][shard], "id")) is not None:
                for place in places:
                    found[place] = column[int(at.row[place])].as_py()
        return found

    def _column(self, file: ShardFile, name: str) -> pa.Array | None:
        """A column of a shard, None if the shard is missing or damaged (said once)."""
        if file.path in self._damaged:
            return None
        try:
            batch = self._reader.batch(file.path)
            if batch.num_rows != file.rows:
                raise ShardError(f"shard {file.path} has {batch.num_rows} rows, its index states {file.rows}")
            return batch.column(name)
        except (ShardError, pa.ArrowException) as error:
            self._damaged.add(file.path)
            log.warning("%s; its samples are replaced by others of the same organ", error)
            return None

    def _stand_in(self, tape: int, shard: int, row: int) -> memoryview:
        """The encoded image that stands in for a row that cannot be read; a function of the sample alone.

        Tried in turn: the next rows of the shard, the next shards of the tape, the organ's other tapes.
        """
        own = self._tapes[tape]
        files = [own[(shard + k) % len(own)] for k in range(len(own))]
        organ = self._organ_of_tape[tape]
        for other in np.flatnonzero(self._organ_of_tape == organ):
            files += self._tapes[other] if other != tape else []
        for file in files:
            column: Any = self._column(file, "image")
            # each row of a lost shard finds another row there, so no image is repeated a thousand times
            for k in range(min(file.rows, TRIES) if column is not None else 0):
                data = next(values(column, np.array([(row + k) % file.rows])))
                if try_decode(data) is not None:
                    return data
        name = list(self.rows_by_organ)[organ]
        raise ShardError(
            f"not one shard of {name} in {self.config.shards} can be read; restore them, run `usfm ingest` again, "
            f"or exclude {name}"
        )


@lru_cache(maxsize=2)
def _of_process(config_json: str, seed: int, fingerprint: str) -> ImageStream:
    """A stream that came in a pickle: made once per process, so that tasks share index and memory maps.

    Raises:
        ShardError: the shards found here are other ones than where the pickle was made.
    """
    stream = ImageStream(StreamConfig.model_validate_json(config_json), seed)
    if stream.fingerprint != fingerprint:
        raise ShardError(
            f"the shards in {stream.config.shards} are not those of this run (fingerprint "
            f"{stream.fingerprint[:12]}..., wanted {fingerprint[:12]}...); were they made again, or does this node "
            "see another folder?"
        )
    return stream


def _by_shard(at: Samples) -> Iterator[tuple[Ints, int, int]]:
    """Places of the samples that lie in each shard, with its tape and number."""
    order = np.lexsort((at.shard, at.tape))
    tape, shard = at.tape[order], at.shard[order]
    cuts = np.flatnonzero((np.diff(tape) != 0) | (np.diff(shard) != 0)) + 1
    for places in np.split(order, cuts):
        if len(places):
            yield places, int(at.tape[places[0]]), int(at.shard[places[0]])


def micro_batch_indices(step: int, lane: int, lanes: int, micro_size: int) -> Ints:
    """Global sample indices of micro-batch `lane` of a step, (micro_size,).

    A global batch is `lanes` micro-batches in order; which worker computes a lane does not change it.
    """
    start = (step * lanes + lane) * micro_size
    return np.arange(start, start + micro_size, dtype=np.int64)
