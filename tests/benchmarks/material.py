"""The images of a benchmark: shards, and the same encoded bytes in every form that a contender reads."""

import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from usfm.data.b_mode import b_mode
from usfm.data.codec import decode_grey, encode_grey
from usfm.data.phantoms import ORGANS
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardFile, ShardIndex, write_index, write_shard
from usfm.data.shares import SamplingConfig
from usfm.data.simulate import COUNTS
from usfm.rng import generator
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["Material", "grids_of", "make_material", "shard_files", "simulated_shards", "stream_config"]

ROWS_PER_SHARD = 512
EPOCHS = 100_000  # the plan must not end while it is timed
MDS_PASSES = 16
PIECES = 32  # files of the other forms, of equal size: enough for every worker of any contender to have some
GRID = 8  # a delivered image is told by the grey levels of GRID x GRID pixels
SPLIT = "train"
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Material:
    """A folder that `make_material` filled.

    Attributes:
        root: holds files/, parquet/, tar/, one_tape/ and, where MosaicML streaming is installed, mds/.
        shards: the shards under test.
        canvas_px: side of the canvas.
        ids: row id of image n; images are numbered organ by organ, shard by shard, row by row.
    """

    root: Path
    shards: Path
    canvas_px: int
    ids: list[str]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.ids)

    def encoded(self) -> Iterator[bytes]:
        """Encoded bytes of every image, in order of their numbers."""
        reader = ShardReader(self.shards)
        for file in shard_files(self.shards):
            for value in reader.batch(file.path).column("image"):
                yield value.as_py()

    def known(self) -> tuple[Pixels, npt.NDArray[np.int64]]:
        """What decoding in this process gives: grids (N, GRID**2) uint8 and CRC-32 of each canvas (N,) int64."""
        return np.load(self.root / "grids.npy"), np.load(self.root / "crc.npy")

    @classmethod
    def load(cls, root: Path) -> "Material":
        """Read what `make_material` wrote."""
        values = json.loads((root / "material.json").read_text(encoding="utf-8"))
        return cls(root, Path(values["shards"]), values["canvas_px"], values["ids"])


def grids_of(canvases: Pixels) -> Pixels:
    """(B, S, S) to (B, GRID**2): a coarse grid of grey levels, cheap enough to take inside a timing."""
    step = canvases.shape[1] // GRID
    return canvases[:, step // 2 :: step, step // 2 :: step][:, :GRID, :GRID].reshape(len(canvases), -1)


def make_material(root: Path, images: int, seed: int, shards: Path | None, passes: int = 4) -> Material:
    """Write everything below `root`.

    Args:
        root: an empty folder.
        images: how many are simulated if no shards are given.
        seed: of the simulation.
        shards: local shards of `usfm ingest` to use instead; all their training rows.
        passes: hard links per image in files/, so that a slow contender is not stopped by the end of its list.
    """
    if shards is None:
        shards = simulated_shards(root / "shards", images, seed)
    reader, ids, grids, crcs = ShardReader(shards), [], [], []
    files = shard_files(shards)
    batches = [reader.batch(file.path) for file in files]
    sides = [max(max(b.column(name).to_pylist()) for name in ("height", "width")) for b in batches]
    canvas_px = -(-max(sides) // 16) * 16
    for batch in batches:
        ids += batch.column("id").to_pylist()
        for value in batch.column("image"):
            canvas = np.zeros((1, canvas_px, canvas_px), np.uint8)
            pixels = decode_grey(value.as_buffer())
            canvas[0, : pixels.shape[0], : pixels.shape[1]] = pixels
            grids.append(grids_of(canvas)[0])
            crcs.append(zlib.crc32(canvas))
    np.save(root / "grids.npy", np.stack(grids))
    np.save(root / "crc.npy", np.array(crcs, np.int64))
    values = {"shards": str(shards.absolute()), "canvas_px": canvas_px, "ids": ids}
    (root / "material.json").write_text(json.dumps(values), encoding="utf-8")
    material = Material.load(root)
    _one_tape(root / "one_tape", material, files)
    _copies(root, list(material.encoded()), passes)
    return material


def simulated_shards(root: Path, images: int, seed: int) -> Path:
    """Shards of simulated organs with the uneven counts of the simulated archive, as ingest encodes them."""
    total = sum(COUNTS.values())
    jobs = [
        (seed, organ, list(range(first, min(first + ROWS_PER_SHARD, count))))
        for organ, share in sorted(COUNTS.items())
        for count in [max(1, round(images * share / total))]
        for first in range(0, count, ROWS_PER_SHARD)
    ]
    files = []
    with ProcessPoolExecutor() as pool:
        for (_, organ, numbers), rows in zip(jobs, pool.map(_simulated_rows, jobs), strict=True):
            name = f"{SPLIT}/{organ}/{numbers[0] // ROWS_PER_SHARD:05d}.arrow"
            files.append(write_shard(root, name, SPLIT, organ, pa.Table.from_pylist(rows, ROW_SCHEMA)))
    write_index(root, f"simulated-{seed}-{images}", files)
    return root


def _simulated_rows(job: tuple[int, str, list[int]]) -> list[dict[str, object]]:
    seed, organ, numbers = job
    cv2.setNumThreads(1)
    rows: list[dict[str, object]] = []
    for number in numbers:
        rng = generator(seed, "benchmark", organ, number)
        pixels = b_mode(ORGANS[organ](rng, "", 0.0), rng, float(rng.uniform(0.6, 1.8)))
        row = {"id": f"simulated/{organ}/{number}#0", "organ": organ, "source": "simulated", "split": SPLIT}
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        rows.append({**row, **size, "image": encode_grey(pixels, "png")})
    return rows


def shard_files(shards: Path) -> list[ShardFile]:
    """Training shards in the order of organ and path, those left out by default left out."""
    by_organ = ShardIndex.load(shards).select(SPLIT, exclude=SamplingConfig().exclude_organs)
    return [file for files in by_organ.values() for file in files]


def _one_tape(root: Path, material: Material, files: Sequence[ShardFile]) -> None:
    """The same shards under an index that knows one organ: the stream then runs shard after shard."""
    root.mkdir()
    (root / SPLIT).symlink_to(material.shards / SPLIT)
    write_index(root, "one tape", [replace(file, organ="all", source="", device="") for file in files])


def stream_config(shards: Path, canvas_px: int, batch: int, workers: int, epoch_samples: int) -> PretrainConfig:
    """The run whose stream is timed: balanced organs, one micro-batch per worker and step."""
    return PretrainConfig.build(
        {
            "data": {"shards": str(shards), "canvas_px": canvas_px, "sampling": {"alpha": 0.0}},
            "batch": {"global_size": batch * workers, "micro_size": batch},
            "epochs": EPOCHS, "epoch_samples": epoch_samples,
        }
    )  # fmt: skip


def _copies(root: Path, encoded: list[bytes], passes: int) -> None:
    """files/, parquet/, tar/ and mds/ with the same bytes."""
    suffix = ".png" if encoded[0].startswith(b"\x89PNG") else ".jpg"
    for number, data in enumerate(encoded):
        for turn in range(passes):
            path = root / "files" / f"{turn}-{number % PIECES:02d}" / f"{number:07d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if turn == 0:
                path.write_bytes(data)
            else:
                os.link(root / "files" / f"0-{number % PIECES:02d}" / path.name, path)
    for folder in ("parquet", "tar"):
        (root / folder).mkdir()
    for piece, numbers in enumerate(np.array_split(np.arange(len(encoded)), min(PIECES, len(encoded)))):
        part = [encoded[number] for number in numbers]
        table = pa.table({"image": pa.array(part, pa.binary())})
        pq.write_table(table, root / "parquet" / f"{piece:04d}.parquet", compression="none")
        with tarfile.open(root / "tar" / f"{piece:04d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, data in zip(numbers, part, strict=True):
                entry = tarfile.TarInfo(f"{number:07d}.image")
                entry.size = len(data)
                tar.addfile(entry, BytesIO(data))
    try:
        from streaming import MDSWriter
    except ImportError:
        return  # the contender is listed as not installed
    limit = max(1 << 16, sum(map(len, encoded)) // PIECES)
    with MDSWriter(out=str(root / "mds" / "00"), columns={"image": "bytes"}, size_limit=limit) as writer:
        for data in encoded:
            writer.write({"image": data})
    for turn in range(1, MDS_PASSES):  # one long epoch: a restart per pass is no fair part of a small set's timing
        shutil.copytree(root / "mds" / "00", root / "mds" / f"{turn:02d}", copy_function=os.link)
