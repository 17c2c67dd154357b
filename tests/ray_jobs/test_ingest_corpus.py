"""The real corpus ingested whole, against the checked-in table of what it must count to."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from corpus_counts import TABLE, counts

from ray_jobs import ingest
from ray_jobs.console import Console
from ray_jobs.ingest import IngestConfig, IngestResult, run
from usfm.config import load_config
from usfm.data.assemble import read_quarantine
from usfm.data.shard_reader import ShardReader

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = Path(ingest.__file__).parent / "recipes" / "ingest.yaml"


@pytest.fixture(scope="module")
def result(ray_cluster: None, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    output = tmp_path_factory.mktemp("corpus") / "shards"
    return run(load_config(IngestConfig, RECIPE, [f"input={corpus}", f"output={output}"]), Console())


@pytest.fixture(scope="module")
def lines(corpus: Path) -> dict[str, dict[str, str]]:
    with (corpus / "manifest.csv").open(encoding="utf-8", newline="") as stream:
        return {f"{line['source']}/{line['path']}": line for line in csv.DictReader(stream)}


def test_counts_are_those_of_the_table(result: IngestResult) -> None:
    assert counts(Path(result.output)) == json.loads(TABLE.read_text(encoding="utf-8"))


def test_every_line_of_the_manifest_is_a_row_or_has_a_reason(
    result: IngestResult, lines: dict[str, dict[str, str]]
) -> None:
    reader = ShardReader(result.output)
    rows = (
        reader.table(reader.index.files).select(["id", "organ", "licence", "mask", "height", "width"]).to_pylist()
    )
    seen = Counter(row["id"].rpartition("#")[0] for row in rows)
    refused = {f"{entry.source}/{entry.name}".partition("#")[0] for entry in read_quarantine(result.output)}
    assert set(seen) | refused == set(lines)
    unmasked = {f"{e.source}/{e.name}" for e in read_quarantine(result.output) if e.kind == "mask"}
    for row in rows:
        line = lines[name := row["id"].rpartition("#")[0]]
        assert (row["organ"], row["licence"]) == (line["organ"], line["licence"])
        assert (row["mask"] is not None) == (bool(line["mask_path"]) and name not in unmasked)
        assert max(row["height"], row["width"]) <= 256
    assert set(result.organs) == {line["organ"] for line in lines.values()}
