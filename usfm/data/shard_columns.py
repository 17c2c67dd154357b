"""Some columns of a shard without the rest: what counting over millions of rows reads.

Local shards are memory-mapped, so columns that nobody asks for are never touched. From elsewhere only the byte
ranges of the wanted columns are fetched: a pass over the small columns of a set costs a few percent of its size.
"""

from collections.abc import Sequence

import pyarrow as pa
from upath import UPath

from usfm.data.location import is_local
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shards import ShardFile
from usfm.errors import ShardError

__all__ = ["shard_columns"]


def shard_columns(root: UPath, file: ShardFile, columns: Sequence[str]) -> pa.RecordBatch:
    """All rows of one shard, the named columns of `ROW_SCHEMA` alone, in the order of `columns`.

    Raises:
        ShardError: the file is missing, is not a shard, or holds another number of rows than its index says.
    """
    path = root / file.path
    options = pa.ipc.IpcReadOptions(included_fields=[ROW_SCHEMA.get_field_index(name) for name in columns])
    try:
        if is_local(path):
            batch = pa.ipc.open_file(pa.memory_map(str(path)), options=options).get_batch(0)
        else:
            # without read-ahead: the columns of a shard lie far apart
            with path.open("rb", cache_type="none") as stream:
                batch = pa.ipc.open_file(pa.PythonFile(stream, mode="r"), options=options).get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise ShardError(f"shard {path} cannot be read: {error}") from None
    if batch.num_rows != file.rows:
        raise ShardError(f"shard {path} holds {batch.num_rows} rows, its index says {file.rows}; ingest again")
    return batch.select(list(columns))
