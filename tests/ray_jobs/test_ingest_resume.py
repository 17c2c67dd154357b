"""Ingest that is killed: started again it reads only what is missing, and the result has the same bytes."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import ingest_tasks
from ray_jobs.console import Console
from ray_jobs.ingest import IngestConfig, run
from usfm.config import load_config

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
SMALL = ["prepare.longest_side_px=64", "prepare.frames.max_frames=2", "rows_per_shard=8", "items_per_chunk=3"]
OWN = ("config.yaml", "ingest.json")  # know places and times

PROGRAM = """
import os, signal, sys
from ray_jobs import ingest, ingest_tasks
from usfm.data import assemble

where, left = sys.argv[1], [int(sys.argv[2])]

def dying(function):
    def counted(*args, **options):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return counted

def stream(*args, whole=ingest_tasks.stream):
    step = dying(lambda items: items)
    yield from map(step, whole(*args))

if where == "read":
    ingest_tasks.stream = stream
else:
    assemble.write_shard = dying(assemble.write_shard)
sys.exit(ingest.main(sys.argv[3:]))
"""


def values(source: Path, output: Path) -> list[str]:
    return [f"input={source}", f"output={output}", *SMALL, "duplicates.near=false", "keep_fragments=true"]


def digests(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name not in OWN and "fragments" not in p.parts)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fragments(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / "fragments").glob("*.arrow")}


@pytest.fixture(scope="module")
def whole(ray_cluster: None, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "shards"
    run(load_config(IngestConfig, None, values(tiny_archive, output)), Console())
    return output


@pytest.mark.parametrize(("where", "seed"), [("read", 0), ("assemble", 2)])
def test_driver_killed_at_a_drawn_moment(
    whole: Path, tiny_archive: Path, tmp_path: Path, where: str, seed: int
) -> None:
    import ray

    steps = {"read": len(fragments(whole)), "assemble": len(list(whole.glob("*/*/*/*.arrow")))}[where]
    moment = random.Random(seed).randrange(1, steps)
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", PROGRAM, where, str(moment), *values(tiny_archive, tmp_path / "s")]
    done = subprocess.run(
        [*command, f"cluster.address={address}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    assert not (tmp_path / "s" / "index.json").exists()
    before = fragments(tmp_path / "s")
    assert len(before) >= moment if where == "read" else len(before) == len(fragments(whole))

    run(load_config(IngestConfig, None, values(tiny_archive, tmp_path / "s")), Console())
    after = fragments(tmp_path / "s")
    assert {name: after[name] for name in before} == before  # finished chunks were not read again
    assert set(after) == set(fragments(whole))
    assert digests(tmp_path / "s") == digests(whole)
    assert not list((tmp_path / "s").rglob("*.tries"))


def test_workers_killed_in_the_middle_of_a_chunk(
    whole: Path, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of some drawn files takes its process along once (out of memory, a node that goes)."""
    plain = ingest_tasks.process
    names = [path.name for path in tiny_archive.rglob("*.*") if path.suffix in (".png", ".jpg", ".avi", ".dcm")]
    doomed = set(random.Random(0).sample(sorted(names), 6))
    marks = tmp_path / "marks"
    marks.mkdir()

    def process(batch: Any, **settings: Any) -> Any:
        from usfm.data import fragments as module

        whole_prepare = module.prepare

        def once(item: Any, *rest: Any) -> Any:
            mark = marks / Path(item.name).name
            if mark.name in doomed and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return whole_prepare(item, *rest)

        module.prepare = once
        try:
            return plain(batch, **settings)
        finally:
            module.prepare = whole_prepare

    monkeypatch.setattr(ingest_tasks, "process", process)
    run(load_config(IngestConfig, None, values(tiny_archive, tmp_path / "s")), Console())
    assert {path.name for path in marks.iterdir()}  # some of the drawn files were items (the others are masks)
    assert digests(tmp_path / "s") == digests(whole)
    assert not list((tmp_path / "s").rglob("*.tries"))
