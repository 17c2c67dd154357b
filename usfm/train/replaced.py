"""The lists of samples whose shard was missing or damaged: one file per worker, in `replaced/` of a run."""

import logging
from pathlib import Path

from usfm.train.row_file import RowFile, rows_up_to

__all__ = ["REPLACED", "replaced_rows"]

REPLACED = "replaced"
"""Folder of a run that holds the lists; a row has the 0-based step, the samples' numbers and their shards."""
log = logging.getLogger(__name__)


def replaced_rows(run_dir: Path, rank: int, world_size: int, start: int) -> RowFile:
    """This worker's list, without the steps that are going to be taken again.

    Args:
        run_dir: folder of the run.
        rank: of this worker; the first one also shortens the lists of workers that are no longer there.
        world_size: number of workers.
        start: first step to take, 0-based.
    """
    folder = run_dir / REPLACED
    if rank == 0:
        for path in folder.glob("rank-*.jsonl"):
            if int(path.stem.removeprefix("rank-")) >= world_size and not _cut(path, start).flush():
                log.warning("%s may list samples twice", path)
    return _cut(folder / f"rank-{rank}.jsonl", start)


def _cut(path: Path, start: int) -> RowFile:
    return RowFile(path, rows_up_to(path, start - 1)[0], make_folder=True)
