"""Random access to the rows of shards through memory maps, wherever the shards lie."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from usfm.config import Config
from usfm.data.location import Location, is_local, local_path, locate
from usfm.data.patience import patiently
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shard_cache import ShardCache, default_folder
from usfm.data.shards import ShardFile, ShardIndex
from usfm.errors import EnvironmentProblem, ShardError

__all__ = ["CacheConfig", "ShardReader"]

MAX_OPEN = 256  # maps held open: files, and with them the limit of open files
EVICTED = 100  # fetches of one shard that others evict at once, before the cache is called too small


class CacheConfig(Config):
    """Where shards of an object store are kept while they are used; local shards are read in place.

    Attributes:
        folder: "" = a folder of this user beside the machine's other temporary files.
        limit_gb: the folder's size; at least a few shards for every CPU.
    """

    folder: str = ""
    limit_gb: float = 50.0


class ShardReader:
    """The rows of a set of shards; files open (or are fetched) on first use."""

    def __init__(self, root: Location, cache: CacheConfig | None = None) -> None:
        self.root = locate(root)
        cache = cache or CacheConfig()
        folder = Path(cache.folder) if cache.folder else default_folder()
        self._cache = ShardCache(folder, int(cache.limit_gb * 2**30))
        self._lock = threading.Lock()
        self._batches: OrderedDict[str, pa.RecordBatch] = OrderedDict()

    def batch(self, path: str) -> pa.RecordBatch:
        """The rows of one shard as one record batch (zero-copy).

        Raises:
            ShardError: the file is missing, is not a shard, or is not the one that the index names.
            EnvironmentProblem: the storage does not answer.
        """
        with self._lock:  # threads that decode may all look for stand-ins
            if path not in self._batches:
                self._batches[path] = self._open(path)
                if len(self._batches) > MAX_OPEN:
                    self._batches.popitem(last=False)
            self._batches.move_to_end(path)
            return self._batches[path]

    def _open(self, path: str) -> pa.RecordBatch:
        if is_local(self.root):
            try:
                return self._read(path, local_path(self.root / path))
            except FileNotFoundError as error:
                raise self._lost(path, error) from None
        for _ in range(EVICTED):
            local = self._cache.fetch(self.root / path, self._files[path].sha256)
            with contextlib.suppress(FileNotFoundError):  # another process evicted it before it was opened here
                return self._read(path, local)
        raise EnvironmentProblem(
            f"shard {path} was evicted from {self._cache.folder} {EVICTED} times before it could be opened; set a "
            "larger data.cache.limit_gb, at least a few shards for every CPU"
        )

    def _read(self, path: str, local: Path) -> pa.RecordBatch:
        """A shard from a local file; FileNotFoundError where there is none."""
        try:
            batch = patiently(lambda: _mapped(local), str(local))
            batch.validate(full=True)  # offsets that point elsewhere would end the process, not raise
        except FileNotFoundError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._lost(path, error) from None
        return batch

    def _lost(self, path: str, error: Exception) -> ShardError:
        return ShardError(f"shard {self.root / path} cannot be read: {error}")

    def take(self, path: str, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.RecordBatch:
        """Rows of one shard, in the order asked for."""
        return self.batch(path).select(list(columns)).take(pa.array(rows))

    def table(self, files: Iterable[ShardFile]) -> pa.Table:
        """All rows of some shards as one table, in the order of `files`."""
        batches = [self.batch(file.path) for file in files]
        return pa.Table.from_batches(batches, ROW_SCHEMA)

    @cached_property
    def index(self) -> ShardIndex:
        """The index beside the shards."""
        return ShardIndex.load(self.root)

    @cached_property
    def _files(self) -> dict[str, ShardFile]:
        return {file.path: file for file in self.index.files}


def _mapped(path: Path) -> pa.RecordBatch:
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
