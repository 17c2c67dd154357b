"""Containers of encoded images: written locally, read locally or from an object store, in order or at random.

Each reads as a user of its library would. Nothing is decoded.
"""

import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

__all__ = ["FORMATS", "MODULES", "Format", "Place"]

PER_FILE = 512  # rows, as our shards have at most
MODULES = {"Lance": "lance", "MDS": "streaming"}
"""Module that a format needs."""


@dataclass(frozen=True)
class Place:
    """Where a format was written: a local folder, or bucket/prefix with the options of the S3 client."""

    path: str
    endpoint: str = ""

    @property
    def files(self) -> fs.FileSystem:
        """The file system; a new client each time, so that nothing is cached between measurements."""
        if not self.endpoint:
            return fs.LocalFileSystem()
        return fs.S3FileSystem(endpoint_override=self.endpoint, scheme="http", region="us-east-1",
                               access_key="testing", secret_key="testing")  # fmt: skip


class Format(Protocol):
    """A container."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        """Write all images into an empty folder."""

    def in_order(self, place: Place) -> Iterator[bytes]:
        """All images, first to last."""

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        """Some images, rows in rising order."""


def _table(encoded: Sequence[bytes]) -> pa.Table:
    return pa.table({"image": pa.array(encoded, pa.binary())})


def _parts(encoded: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    for number, first in enumerate(range(0, len(encoded), PER_FILE)):
        yield number, encoded[first : first + PER_FILE]


def _names(place: Place, suffix: str) -> list[str]:
    found = place.files.get_file_info(fs.FileSelector(place.path))
    return sorted(info.path for info in found if info.path.endswith(suffix))


def _by_file(rows: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    for number, group in groupby(rows, key=lambda row: row // PER_FILE):
        yield number, [row % PER_FILE for row in group]


class ArrowIpc:
    """Uncompressed, one record batch per file; memory-mapped locally."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        for number, part in _parts(encoded):
            table = _table(part)
            with pa.ipc.new_file(str(folder / f"{number:05d}.arrow"), table.schema) as writer:
                writer.write_table(table)

    def in_order(self, place: Place) -> Iterator[bytes]:
        for name in _names(place, ".arrow"):
            yield from (value.as_py() for value in self._column(place, name))

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        names = _names(place, ".arrow")
        found = []
        for number, inside in _by_file(rows):
            column = self._column(place, names[number])
            found += [column[row].as_py() for row in inside]
        return found

    @staticmethod
    def _column(place: Place, name: str) -> pa.Array:
        source = place.files.open_input_file(name) if place.endpoint else pa.memory_map(name)
        return pa.ipc.open_file(source).get_batch(0).column("image")


@dataclass(frozen=True)
class Parquet:
    """No compression: the images are compressed already."""

    rows_per_group: int

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        for number, part in _parts(encoded):
            path = folder / f"{number:05d}.parquet"
            pq.write_table(_table(part), path, compression="none", use_dictionary=False,
                           row_group_size=self.rows_per_group, write_statistics=False)  # fmt: skip

    def in_order(self, place: Place) -> Iterator[bytes]:
        for name in _names(place, ".parquet"):
            for batch in self._file(place, name).iter_batches(batch_size=self.rows_per_group):
                yield from (value.as_py() for value in batch.column("image"))

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        names = _names(place, ".parquet")
        found = []
        for number, inside in _by_file(rows):
            file = self._file(place, names[number])
            for group, members in groupby(inside, key=lambda row: row // self.rows_per_group):
                column = file.read_row_group(group, columns=["image"]).column("image")
                found += [column[row % self.rows_per_group].as_py() for row in members]
        return found

    @staticmethod
    def _file(place: Place, name: str) -> pq.ParquetFile:
        return pq.ParquetFile(place.files.open_input_file(name))


class Lance:
    """Lance with its defaults."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        import lance

        lance.write_dataset(_table(encoded), str(folder / "data.lance"), max_rows_per_file=PER_FILE)

    def in_order(self, place: Place) -> Iterator[bytes]:
        for batch in self._dataset(place).to_batches(columns=["image"]):
            yield from (value.as_py() for value in batch.column("image"))

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        column = self._dataset(place).take(list(rows), columns=["image"]).column("image")
        return [value.as_py() for value in column]

    @staticmethod
    def _dataset(place: Place) -> Any:
        import lance

        if not place.endpoint:
            return lance.dataset(f"{place.path}/data.lance")
        options = {"aws_endpoint": f"http://{place.endpoint}", "allow_http": "true", "aws_region": "us-east-1",
                   "aws_access_key_id": "testing", "aws_secret_access_key": "testing"}  # fmt: skip
        return lance.dataset(f"s3://{place.path}/data.lance", storage_options=options)


class Tar:
    """As webdataset reads it; an index of offsets beside the tars makes random access possible."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        index = []
        for number, part in _parts(encoded):
            path = folder / f"{number:05d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for row, data in enumerate(part):
                    entry = tarfile.TarInfo(f"{row:06d}.image")
                    entry.size = len(data)
                    tar.addfile(entry, BytesIO(data))
            with tarfile.open(path) as tar:
                index += [(path.name, entry.offset_data, entry.size) for entry in tar]
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

    def in_order(self, place: Place) -> Iterator[bytes]:
        for name in _names(place, ".tar"):
            with (
                place.files.open_input_stream(name, buffer_size=4 << 20) as stream,
                tarfile.open(fileobj=stream, mode="r|") as tar,
            ):
                for entry in tar:
                    data = tar.extractfile(entry)
                    assert data is not None
                    yield data.read()

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        files = place.files
        index = json.loads(files.open_input_stream(f"{place.path}/index.json").read())
        opened = {name: files.open_input_file(f"{place.path}/{name}") for name in {index[row][0] for row in rows}}
        return [opened[name].read_at(size, offset) for name, offset, size in (index[row] for row in rows)]


class Mds:
    """MosaicML streaming; a remote shard is fetched whole before its first row is there."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        from streaming import MDSWriter

        size = max(1 << 16, sum(map(len, encoded[:PER_FILE])))
        with MDSWriter(out=str(folder), columns={"image": "bytes"}, size_limit=size) as writer:
            for data in encoded:
                writer.write({"image": data})

    def in_order(self, place: Place) -> Iterator[bytes]:
        with tempfile.TemporaryDirectory() as cache:
            dataset = self._dataset(place, cache)
            yield from (dataset[row]["image"] for row in range(dataset.size))

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        with tempfile.TemporaryDirectory() as cache:
            dataset = self._dataset(place, cache)
            return [dataset[row]["image"] for row in rows]

    @staticmethod
    def _dataset(place: Place, cache: str) -> Any:
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        where = {"remote": f"s3://{place.path}", "local": cache} if place.endpoint else {"local": place.path}
        return StreamingDataset(**where, shuffle=False, batch_size=1)


class Files:
    """One file per image."""

    def write(self, folder: Path, encoded: Sequence[bytes]) -> None:
        for number, data in enumerate(encoded):
            (folder / f"{number:07d}.image").write_bytes(data)

    def in_order(self, place: Place) -> Iterator[bytes]:
        files = place.files
        for name in _names(place, ".image"):
            with files.open_input_stream(name) as stream:
                yield stream.read()

    def take(self, place: Place, rows: Sequence[int]) -> list[bytes]:
        files = place.files
        found = []
        for row in rows:
            with files.open_input_stream(f"{place.path}/{row:07d}.image") as stream:
                found.append(stream.read())
        return found


FORMATS: dict[str, Format] = {
    "Arrow IPC": ArrowIpc(),
    "Parquet, 16 rows a group": Parquet(16),
    "Parquet, 512 rows a group": Parquet(512),
    "Lance": Lance(),
    "tar": Tar(),
    "MDS": Mds(),
    "files": Files(),
}
