"""Data: what lies in a set of shards, and whether a benchmark's images are among it.

`usfm data card SHARDS`                     writes the data card (HTML and JSON) beside the shards
`usfm data hashes SHARDS|ARCHIVE`           writes a hash list, to be published in place of images
`usfm data contamination SHARDS LIST.csv`   looks for a list; exit status 1 if training rows are in it
"""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field

from ray_jobs.console import Console
from ray_jobs.job import main as job_main
from usfm.config import Config
from usfm.data.cleaning.hashes import DuplicateConfig
from usfm.data.contamination import CONTAMINATION, write_contamination
from usfm.data.hash_list import Hashed, hash_items, hash_shards, read_hash_list, write_hash_list
from usfm.data.location import locate
from usfm.data.prepare import PrepareConfig
from usfm.data.schema import Rejected
from usfm.data.shards import INDEX_NAME, ShardIndex
from usfm.data.sources.found import SourceOptions
from usfm.data.sources.table import list_items
from usfm.errors import ConfigError
from usfm.report.data_card import CardConfig, build_data_card

__all__ = ["CardJob", "ContaminationJob", "HashesJob", "main"]

IN_LIST = 1
"""Exit status: training rows are in the benchmark's list."""


class CardJob(Config):
    """What to make a data card of.

    Attributes:
        shards: folder of the shards, local or any URL that fsspec opens.
        output: folder of the card; "" = `card` beside the shards.
        card: how much it looks at and lists.
    """

    shards: str = "runs/shards"
    output: str = ""
    card: CardConfig = CardConfig()


class HashesJob(Config):
    """Whose hashes to write.

    Attributes:
        input: folder of shards, or an archive that ingest could read.
        output: the list, a CSV file.
        split: of shards, only this split; "" = all.
        source: layout of an archive, as for ingest.
        source_options: what the archive does not say itself.
        prepare: how images of an archive are read and cleaned, as for ingest: hashes are of the cleaned image.
    """

    input: str = "runs/shards"
    output: str = "hashes.csv"
    split: Literal["", "train", "val", "test"] = ""
    source: str = "auto"
    source_options: SourceOptions = SourceOptions()
    prepare: PrepareConfig = PrepareConfig()


class ContaminationJob(Config):
    """Which list to look for.

    Attributes:
        shards: folder of the shards.
        list: hash list of the benchmark.
        name: of the benchmark; "" = the list's file name.
        output: folder of the result; "" = `contamination` beside the shards, where the data card finds it.
        similar: when two pictures are similar.
    """

    shards: str = "runs/shards"
    list: str = ""
    name: str = Field(default="", pattern=r"^[\w.-]*$")
    output: str = ""
    similar: DuplicateConfig = DuplicateConfig()

    @property
    def benchmark(self) -> str:
        """What the result is called."""
        return self.name or PurePosixPath(self.list.replace("\\", "/")).stem


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: a verb, what it works on, then the options that every job has."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="usfm data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=VERBS, help="usfm data VERB --help says more")
    verb = parser.parse_args(arguments[:1]).verb
    return VERBS[verb](arguments[1:])


def card(argv: Sequence[str]) -> int:
    """Write the data card."""
    return job_main(
        CardJob, _card, _card_plan, argv, command="data card", positional="shards",
        description="Write a data card: what lies in a set of shards, as HTML and JSON.",
    )  # fmt: skip


def hashes(argv: Sequence[str]) -> int:
    """Write a hash list."""
    return job_main(
        HashesJob, _hashes, _hashes_plan, argv, command="data hashes", positional="input",
        description="Write the hashes of shards or of an archive, so that others can look for its images.",
    )  # fmt: skip


def contamination(argv: Sequence[str]) -> int:
    """Look for a benchmark's list."""
    summaries: list[dict[str, Any]] = []
    named = [text for text in argv if "=" not in text and not text.startswith("-")][:2]
    keys = dict(zip(named[::-1], ("list", "shards"), strict=False)) if len(named) == 2 else {}
    status = job_main(
        ContaminationJob,
        lambda config, console: summaries.append(_contamination(config, console)),
        _contamination_plan,
        [f"{keys[text]}={text}" if text in keys else text for text in argv],
        command="data contamination",
        positional="shards",
        description="Look for a benchmark's hash list in shards (SHARDS LIST.csv). Exit status: 0 no training row "
        "is in the list, 1 some are, 2 the command could not be done.",
    )
    return IN_LIST if any(summary["train_rows"] for summary in summaries) else status


VERBS: dict[str, Callable[[Sequence[str]], int]] = {"card": card, "hashes": hashes, "contamination": contamination}


def _card_plan(config: CardJob) -> Mapping[str, Any]:
    index = ShardIndex.load(config.shards)
    folder = locate(config.output) if config.output else index.root / "card"
    return {"rows": sum(file.rows for file in index.files), "shards": len(index.files), "output": str(folder)}


def _card(config: CardJob, console: Console) -> None:
    @contextlib.contextmanager
    def progress(name: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        with console.stage(name, total, unit) as stage:
            yield stage.advance

    page = build_data_card(config.shards, config.card, config.output, progress)
    console.say(f"data card    {page}")


def _hashes_plan(config: HashesJob) -> Mapping[str, Any]:
    return {"input": config.input, "kind": "shards" if _is_shards(config) else "archive", "output": config.output}


def _hashes(config: HashesJob, console: Console) -> None:
    if not config.output.endswith(".csv"):
        raise ConfigError(f"output is {config.output!r}; give a file name that ends in .csv")
    kinds: Counter[str] = Counter()

    def refused(entry: Rejected) -> None:
        kinds[entry.kind] += 1
        if console.verbose and entry.kind != "ignored":
            console.warn(f"{entry.name}: {entry.reason}")

    with console.stage("hashes", unit="images") as stage:
        if _is_shards(config):
            entries = hash_shards(config.input, config.split)
        else:
            listing = list_items(config.input, config.source, config.source_options)
            entries = hash_items(listing.entries, config.prepare, refused)
        written = write_hash_list(config.output, _counted(entries, stage.advance))
    if kinds:
        console.warn("refused: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())))
    console.say(
        f"hash list    {config.output} ({written} images; names are in it, look through them before you publish)"
    )


def _contamination_plan(config: ContaminationJob) -> Mapping[str, Any]:
    if not config.list:
        raise ConfigError("no hash list is given; usfm data contamination SHARDS LIST.csv")
    index = ShardIndex.load(config.shards)
    folder = locate(config.output) if config.output else index.root / CONTAMINATION
    return {"rows": sum(file.rows for file in index.files), "benchmark": config.benchmark, "output": str(folder)}


def _contamination(config: ContaminationJob, console: Console) -> dict[str, Any]:
    planned = _contamination_plan(config)
    listed = read_hash_list(config.list)
    with console.stage("look", planned["rows"], "rows") as stage:
        index = ShardIndex.load(config.shards)
        summary = write_contamination(index, listed, config.benchmark, config.similar, config.output, stage.advance)
    rows = [
        (split, organ, found["exact"], found["near"])
        for split, organs in summary["by"].items()
        for organ, found in organs.items()
    ]
    if rows:
        console.table(f"{config.benchmark} in these shards", ("split", "organ", "exact", "near"), rows)
    console.say(
        f"contamination {planned['output']}/{config.benchmark}.csv: {summary['lines_found']} of {summary['lines']} "
        f"images of the list are in {summary['exact']} + {summary['near']} rows (exact + near)"
    )
    if summary["train_rows"]:
        console.warn(
            f"{summary['train_rows']} training rows are in {config.benchmark}: scores on it mean nothing before "
            "they are left out"
        )
    return summary


def _is_shards(config: HashesJob) -> bool:
    return (locate(config.input) / INDEX_NAME).exists()


def _counted(entries: Iterator[Hashed], advance: Callable[[int], object]) -> Iterator[Hashed]:
    for entry in entries:
        yield entry
        advance(1)


if __name__ == "__main__":
    sys.exit(main())
