"""Ingest: an archive of ultrasound files to shards, with Ray Data.

Ray Data spreads chunks of items over the cluster; each writes a fragment (into `<output>/fragments`, so on a
cluster of several machines the output must be a shared folder). The driver then puts the fragments together
in the items' order. So the shards depend on the items and the configuration alone, not on scheduling.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
from pydantic import Field

from ray_jobs.cluster import ClusterConfig, connect
from ray_jobs.console import Console
from ray_jobs.job import main as job_main
from usfm.config import Config
from usfm.data.assemble import QUARANTINE_NAME, Assembled, assemble, existing
from usfm.data.fragments import FRAGMENTS, Chunk, fingerprint, fragment_path, make_chunks, process_chunk
from usfm.data.prepare import PrepareConfig
from usfm.data.schema import SPLITS
from usfm.data.shards import INDEX_NAME
from usfm.data.sources.table import MANIFEST_NAME, Found, find_items
from usfm.data.split import SplitConfig
from usfm.errors import DataError

__all__ = ["IngestConfig", "IngestResult", "main", "plan", "resolve_input", "run"]

CORPUS_VARIABLE = "USFM_CORPUS"
NEIGHBOUR_CORPUS = Path("../shared/corpus")
BLOCKS = 512


class IngestConfig(Config):
    """What to read and what to write.

    Attributes:
        input: a manifest CSV, a folder that holds one, a folder tree, or "auto" (see `resolve_input`).
        source: how to list the input; "auto" looks for a manifest.
        output: folder of the shards; made if it is missing.
        prepare: how an item becomes rows.
        split: train, validation and test by patient group.
        rows_per_shard: a shard holds at most so many rows.
        items_per_chunk: items per task of the cluster; does not change the shards.
        exclude_organs: organs that are left out.
        keep_fragments: keep `<output>/fragments` after success; the next ingest of the same items with
            another `rows_per_shard` then reads no file again.
        cluster: how to reach or start Ray.
    """

    input: str = "auto"
    source: Literal["auto", "manifest", "folder"] = "auto"
    output: str = "runs/shards"
    prepare: PrepareConfig = PrepareConfig()
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
        input_kind: "manifest", "folder" or "simulator".
        skipped: True where the shards were there already and nothing was touched.
    """

    output: Path
    rows: int
    organs: dict[str, dict[str, int]]
    quarantined: dict[str, int]
    input: Path
    input_kind: str
    skipped: bool


def resolve_input(config: IngestConfig) -> tuple[Path, str]:
    """Where the items are, and "archive" or "simulator".

    "auto" is the folder in `USFM_CORPUS`, else `../shared/corpus` where it exists, else the built-in
    simulator's archive beside the output (with the real DICOM files of the package pydicom).
    """
    if config.input != "auto":
        return Path(config.input), "archive"
    if corpus := os.environ.get(CORPUS_VARIABLE):
        return Path(corpus), "archive"
    if (NEIGHBOUR_CORPUS / MANIFEST_NAME).is_file():
        return NEIGHBOUR_CORPUS, "archive"
    return Path(config.output).parent / "simulated", "simulator"


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
    found = _listed(config, path)
    chunks = make_chunks(found.items, config.items_per_chunk, config.prepare, config.split)
    name = fingerprint(found, config.prepare, config.split, config.rows_per_shard)
    return {
        "input": path,
        "kind": kind if kind == "simulator" else found.kind,
        "items": len(found.items),
        "refused_unread": len(found.rejected),
        "ignored_files": found.ignored,
        "organs": dict(sorted(Counter(item.organ for item in found.items).items())),
        "suffixes": dict(sorted(Counter(Path(item.name).suffix.lower() for item in found.items).items())),
        "chunks": len(chunks),
        "output": config.output,
        "fingerprint": name,
        "up_to_date": existing(Path(config.output), name) is not None,
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

        write_archive(path)
    found = _listed(config, path)
    kind = kind if kind == "simulator" else found.kind
    output = Path(config.output)
    console.say(f"input        {path} ({kind}, {len(found.items)} items)")
    if found.ignored:
        console.say(f"             {found.ignored} files that are not media were ignored")
    name = fingerprint(found, config.prepare, config.split, config.rows_per_shard)
    if (done := existing(output, name)) is not None:
        console.say(f"up to date   {output} was made from these very items; nothing was touched")
        return _report(output, done, path, kind, True, console)
    if (output / INDEX_NAME).exists():
        console.say(f"rebuild      {output} was made from other items or another configuration")

    chunks = make_chunks(found.items, config.items_per_chunk, config.prepare, config.split)
    _read(config, chunks, output, console)
    with console.stage("assemble"):
        fragments = [fragment_path(output, chunk) for chunk in chunks]
        made = assemble(fragments, output, name, config.rows_per_shard, found.rejected)
    (output / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    if not config.keep_fragments:
        shutil.rmtree(output / FRAGMENTS, ignore_errors=True)
    return _report(output, made, path, kind, False, console)


def _listed(config: IngestConfig, path: Path) -> Found:
    found = find_items(path, config.source)
    unknown = sorted(set(config.exclude_organs) - {item.organ for item in found.items})
    if unknown:
        known = ", ".join(sorted({item.organ for item in found.items}))
        raise DataError(f"exclude_organs names {', '.join(unknown)}; the input has {known}")
    kept = [item for item in found.items if item.organ not in config.exclude_organs]
    if not kept:
        raise DataError(
            f"no items in {path}; expected a {MANIFEST_NAME} or organ folders with images, clips or DICOM"
        )
    return replace(found, items=kept)


def _read(config: IngestConfig, chunks: Sequence[Chunk], output: Path, console: Console) -> None:
    """Write the fragments that are missing, on the cluster."""
    total = sum(len(chunk.items) for chunk in chunks)
    missing = [chunk for chunk in chunks if not fragment_path(output, chunk).is_file()]
    with console.stage("read", total, "items") as stage:
        stage.to(total - sum(len(chunk.items) for chunk in missing))
        if missing:
            with connect(config.cluster, console.verbose):
                for items in _stream(config, missing, output):
                    stage.advance(items)


def _stream(config: IngestConfig, chunks: Sequence[Chunk], output: Path) -> Iterator[int]:
    """Items of each finished chunk, as they finish."""
    import ray.data  # after `connect` has set Ray's switches

    settings = {"output": str(output.resolve()), "prepare_config": config.prepare, "split": config.split}
    dataset = ray.data.from_items(
        [{"chunk": chunk} for chunk in chunks], override_num_blocks=min(len(chunks), BLOCKS)
    )
    done = dataset.map_batches(_process, batch_size=1, batch_format="numpy", fn_kwargs=settings)
    for row in done.iter_rows():
        yield int(row["items"])


def _process(batch: Mapping[str, Any], **settings: Any) -> dict[str, list[int]]:
    """Ray Data's side of `process_chunk`."""
    cv2.setNumThreads(1)  # one CPU per task; Ray runs the tasks side by side
    counts = []
    for chunk in batch["chunk"]:
        process_chunk(chunk, **settings)
        counts.append(len(chunk.items))
    return {"items": counts}


def _report(output: Path, made: Assembled, path: Path, kind: str, skipped: bool, console: Console) -> IngestResult:
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
    return IngestResult(output, rows, made.rows, made.quarantined, path, kind, skipped)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this job."""
    return job_main(
        IngestConfig, run, plan, argv, description="Archive of ultrasound files to shards.", recipe="ingest"
    )


if __name__ == "__main__":
    sys.exit(main())
