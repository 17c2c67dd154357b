"""Ingest: an archive of ultrasound files to shards, with Ray Data.

The archive is listed into a catalogue on the driver's disk. Ray Data spreads chunks of its items over the cluster,
one window of chunks after the other; each writes a fragment (into `<output>/fragments`, so on a cluster of several
machines the output must be a shared folder or an object store). The driver then puts the fragments together in the
items' order. So the shards depend on the items and the configuration alone, not on scheduling, and memory does not
grow with the archive.
"""

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field
from upath import UPath

from ray_jobs import ingest_tasks
from ray_jobs.cluster import ClusterConfig, connect
from ray_jobs.console import Console
from ray_jobs.job import main as job_main
from usfm.config import Config
from usfm.data.assemble import QUARANTINE_NAME, TEXT_NAME, Assembled, assemble, existing
from usfm.data.catalogue import Catalogue
from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.fragments import FRAGMENTS, row_settings
from usfm.data.location import is_local, local_path, locate, remove_tree, write_bytes
from usfm.data.prepare import GROUP_KEY_VARIABLE, PrepareConfig
from usfm.data.row_table import keep_stamp
from usfm.data.schema import SPLITS
from usfm.data.shards import INDEX_NAME
from usfm.data.sources.found import SourceOptions
from usfm.data.sources.table import MANIFEST_NAME, list_items
from usfm.data.split import SplitConfig
from usfm.errors import DataError

__all__ = ["IngestConfig", "IngestResult", "main", "plan", "resolve_input", "run"]

CORPUS_VARIABLE = "USFM_CORPUS"
NEIGHBOUR_CORPUS = Path("../shared/corpus")
WINDOW = 1024
"""Chunks given to Ray Data at a time."""


class IngestConfig(Config):
    """What to read and what to write.

    Attributes:
        input: a manifest CSV, a folder that holds one, a folder tree, a public set as published, a zip file
            of one of these, as a local path or a URL that fsspec opens; or "auto" (see `resolve_input`).
        source: how to list the input: a key of `usfm.data.sources.table.SOURCES`, or "auto".
        source_options: what the archive does not say itself.
        output: folder of the shards, local or a URL; made if it is missing.
        prepare: how an item becomes rows.
        duplicates: which rows count as duplicates; one of each is kept.
        split: train, validation and test by patient group.
        rows_per_shard: a shard holds at most so many rows.
        items_per_chunk: items per task of the cluster; does not change the shards.
        exclude_organs: organs that are left out.
        keep_fragments: keep `<output>/fragments` after success; the next ingest of the same items with
            another split, other duplicates or another `rows_per_shard` then reads no file again.
        cluster: how to reach or start Ray.
    """

    input: str = "auto"
    source: str = "auto"
    source_options: SourceOptions = SourceOptions()
    output: str = "runs/shards"
    prepare: PrepareConfig = PrepareConfig()
    duplicates: DuplicateConfig = DuplicateConfig()
    split: SplitConfig = SplitConfig()
    rows_per_shard: int = Field(default=2048, ge=1)
    items_per_chunk: int = Field(default=32, ge=1)
    exclude_organs: list[str] = []
    keep_fragments: bool = False
    cluster: ClusterConfig = ClusterConfig()


@dataclass(frozen=True)
class IngestResult:
    """What an ingest made.

    Attributes:
        output: folder of the shards.
        rows: rows in all.
        organs: rows by organ and split.
        quarantined: entries of the quarantine table, by kind.
        input: what was read.
        input_kind: a key of the table of sources, or "simulator".
        skipped: True where the shards were there already and nothing was touched.
    """

    output: UPath
    rows: int
    organs: dict[str, dict[str, int]]
    quarantined: dict[str, int]
    input: UPath
    input_kind: str
    skipped: bool


@dataclass(frozen=True)
class _Listed:
    """An input that was listed to its end. `name` stands for its items, their bytes and the settings."""

    catalogue: Catalogue
    kind: str
    name: str


def resolve_input(config: IngestConfig) -> tuple[UPath, str]:
    """Where the items are, and "archive" or "simulator".

    "auto" is the folder in `USFM_CORPUS`, else `../shared/corpus` where it exists, else the built-in
    simulator's archive beside the output (with the real DICOM files of the package pydicom).
    """
    if config.input != "auto":
        return locate(config.input), "archive"
    if corpus := os.environ.get(CORPUS_VARIABLE):
        return locate(corpus), "archive"
    if (NEIGHBOUR_CORPUS / MANIFEST_NAME).is_file():
        return locate(NEIGHBOUR_CORPUS), "archive"
    output = locate(config.output)
    return (output.parent if is_local(output) else locate("runs")) / "simulated", "simulator"


def plan(config: IngestConfig) -> dict[str, Any]:
    """What `run` would do; touches nothing."""
    path, kind = resolve_input(config)
    if kind == "simulator" and not (path / MANIFEST_NAME).is_file():
        return {
            "input": path,
            "kind": kind,
            "note": "the archive would be simulated first",
            "output": config.output,
        }
    with _listed(config, path, Console()) as listed:
        catalogue = listed.catalogue
        organs = {organ: count for organ, count in catalogue.organs.items() if organ not in config.exclude_organs}
        return {
            "input": path,
            "kind": kind if kind == "simulator" else listed.kind,
            "items": catalogue.items,
            "refused_unread": catalogue.refused,
            "ignored_files": catalogue.ignored,
            "organs": dict(sorted(organs.items())),
            "suffixes": dict(sorted(catalogue.suffixes.items())),
            "chunks": catalogue.chunk_count,
            "output": config.output,
            "up_to_date": existing(config.output, listed.name) is not None,
        }


def run(config: IngestConfig, console: Console) -> IngestResult:
    """Read the input and write shards, ledger and quarantine table; a bad file never stops it.

    Raises:
        DataError: nothing to read, or not one item could be used.
    """
    path, kind = resolve_input(config)
    if kind == "simulator" and not (path / MANIFEST_NAME).is_file():
        console.say(f"input        no corpus here; simulating an archive at {path}")
        from usfm.data.simulate import write_archive  # here, for it imports torch, which tasks do without

        write_archive(local_path(path))
    with _listed(config, path, console) as listed:
        kind = kind if kind == "simulator" else listed.kind
        return _run(config, path, kind, listed, console)


def _run(config: IngestConfig, path: UPath, kind: str, listed: _Listed, console: Console) -> IngestResult:
    catalogue = listed.catalogue
    output = _output(config)
    console.say(f"input        {path} ({kind}, {catalogue.items} items)")
    if not os.environ.get(GROUP_KEY_VARIABLE):
        console.say(
            f"privacy      {GROUP_KEY_VARIABLE} is not set: stated groups are stored as they are, patients of "
            "DICOM files under a hash that others can compute; set a secret for data of patients"
        )
    if catalogue.ignored:
        console.say(f"             {catalogue.ignored} files that are not media were ignored")
    if (done := existing(output, listed.name)) is not None:
        console.say(f"up to date   {config.output} was made from these very items; nothing was touched")
        return _report(config, done, path, kind, True, console)
    if (output / INDEX_NAME).exists():
        console.say(f"rebuild      {config.output} was made from other items or another configuration")

    _read(config, catalogue, output, console)
    with console.stage("assemble"):
        made = assemble(
            catalogue.chunk_keys(),
            output,
            listed.name,
            config.rows_per_shard,
            catalogue.rejected(),
            prepare=config.prepare,
            split=config.split,
            duplicates=config.duplicates,
        )
    write_bytes(output / "config.yaml", config.to_yaml().encode())
    if not config.keep_fragments:
        remove_tree(output / FRAGMENTS)
    return _report(config, made, path, kind, False, console)


@contextlib.contextmanager
def _listed(config: IngestConfig, path: UPath, console: Console) -> Iterator[_Listed]:
    """The catalogue of the input, on local disk for the length of a block."""
    listing = list_items(path, config.source, config.source_options)
    with tempfile.TemporaryDirectory(prefix="usfm-ingest-") as scratch:
        catalogue = Catalogue(Path(scratch) / "catalogue.sqlite", listing.entries, config.exclude_organs)
        with contextlib.closing(catalogue):
            unknown = sorted(set(config.exclude_organs) - set(catalogue.organs))
            if unknown:
                known = ", ".join(sorted(catalogue.organs))
                raise DataError(f"exclude_organs names {', '.join(unknown)}; the input has {known}")
            if not catalogue.items:
                reasons = Counter(entry.reason for entry in catalogue.rejected()).most_common(3)
                told = "".join(f"\n  {count} x {reason}" for reason, count in reasons)
                raise DataError(
                    f"no items in {path}; expected a {MANIFEST_NAME} or organ folders with images, clips or "
                    f"DICOM{told}"
                )
            more = [config.rows_per_shard, config.duplicates.model_dump(), config.split.model_dump()]
            more.append(keep_stamp(config.split.keep))
            name = catalogue.cut(config.items_per_chunk, row_settings(config.prepare), more)
            yield _Listed(catalogue, listing.kind, name)


def _output(config: IngestConfig) -> UPath:
    """The output as every machine's tasks see it: local ones absolute."""
    output = locate(config.output)
    return output.resolve() if is_local(output) else output


def _read(config: IngestConfig, catalogue: Catalogue, output: UPath, console: Console) -> None:
    """Write the fragments that are missing, on the cluster, one window of chunks after the other."""
    chunks = catalogue.chunks()
    with contextlib.ExitStack() as cluster, console.stage("read", catalogue.items, "items") as stage:
        connected = False
        while window := list(islice(chunks, WINDOW)):
            missing = ingest_tasks.missing(window, output)
            stage.advance(sum(len(chunk.items) for chunk in window) - sum(len(chunk.items) for chunk in missing))
            if missing and not connected:
                cluster.enter_context(connect(config.cluster, console.verbose))
                connected = True
            for items in ingest_tasks.stream(missing, output, config.prepare):
                stage.advance(items)


def _report(
    config: IngestConfig, made: Assembled, path: UPath, kind: str, skipped: bool, console: Console
) -> IngestResult:
    output = locate(config.output)
    if not made.rows:
        raise DataError(f"not one item of {path} could be used; the reasons are in {output / QUARANTINE_NAME}")
    totals = [sum(counts[split] for counts in made.rows.values()) for split in SPLITS]
    rows = sum(totals)
    lines: list[list[object]] = [
        [organ, *(counts[split] for split in SPLITS)] for organ, counts in made.rows.items()
    ]
    lines.append(["all", *totals])
    console.table(f"{rows} rows in {output}", ["organ", *SPLITS], lines)
    for organ, counts in made.rows.items():
        if not counts["train"]:
            console.warn(
                f"{organ} has no train rows: too few patient groups for this split; try another split.seed"
            )
    if made.quarantined:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(made.quarantined.items()))
        console.say(f"quarantine   {kinds}; reasons in {output / QUARANTINE_NAME}")
    if made.with_text:
        console.say(f"text         {made.with_text} rows have burned-in text; look at {output / TEXT_NAME}")
    return IngestResult(output, rows, made.rows, made.quarantined, path, kind, skipped)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this job."""
    return job_main(
        IngestConfig, run, plan, argv, command="ingest", recipe="ingest",
        description="Archive of ultrasound files to shards.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
