"""Ingest through a real S3 protocol server, and from zip files: the same bytes as from a local folder."""

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from ray_jobs import ingest_tasks
from ray_jobs.console import Console
from ray_jobs.ingest import IngestConfig, run
from usfm.config import load_config
from usfm.data.location import files_below, locate
from usfm.data.shard_reader import CacheConfig, ShardReader

pytestmark = pytest.mark.ray
SMALL = ["prepare.longest_side_px=64", "prepare.frames.max_frames=2", "rows_per_shard=8", "items_per_chunk=6"]
OWN = ("config.yaml", "ingest.json")  # know places and times


@pytest.fixture(scope="module")
def bucket(s3_environment: dict[str, str]) -> Iterator[str]:
    """A bucket of the S3 server that Ray's workers know too; its address is in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def remote_archive(bucket: str, tiny_archive: Path) -> str:
    s3fs.S3FileSystem().put(f"{tiny_archive}/", f"{bucket}/archive/", recursive=True)
    return f"{bucket}/archive"


@pytest.fixture(scope="module")
def local(ray_cluster: None, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the same archive on local disk."""
    return Path(run(config(tiny_archive, tmp_path_factory.mktemp("local") / "shards"), Console()).output)


def config(source: object, output: object, *more: str) -> IngestConfig:
    values = [f"input={source}", f"output={output}", *SMALL, "duplicates.near=false", *more]
    return load_config(IngestConfig, None, values)


def digests(root: object) -> dict[str, str]:
    top = locate(str(root))
    names = [name for name, _ in files_below(top) if name not in OWN and not name.startswith("fragments/")]
    return {name: hashlib.sha256((top / name).read_bytes()).hexdigest() for name in sorted(names)}


def test_from_bucket_to_bucket_gives_the_bytes_of_the_local_run(
    remote_archive: str, local: Path, bucket: str, tmp_path: Path
) -> None:
    there = f"{bucket}/shards"
    made = run(config(remote_archive, there), Console())
    assert digests(there) == digests(local)
    assert not made.skipped
    assert str(made.output) == there
    assert not any(name.startswith("fragments/") for name, _ in files_below(locate(there)))
    here, far = ShardReader(local), ShardReader(there, CacheConfig(folder=str(tmp_path)))
    assert far.index.files == here.index.files
    assert far.table(far.index.files[:3]).equals(here.table(here.index.files[:3]))


def test_a_second_run_sees_its_own_work_and_a_changed_object(
    remote_archive: str, local: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder tree states no checksums: the listing's ETag tells that a file changed."""
    archive, there = f"{bucket}/tree", f"{bucket}/tree_shards"
    store = s3fs.S3FileSystem()
    stills = [name for name in store.find(f"{remote_archive}/heart") if name.endswith(".jpg")]
    for name in stills[:4]:
        store.copy(name, f"{archive}/heart/{Path(name).name}")
    first = run(config(archive, there), Console())
    assert first.rows == 4
    before = {name: store.info(f"{there}/{name}")["ETag"] for name, _ in files_below(locate(there))}
    assert run(config(archive, there), Console()).skipped
    assert "nothing was touched" in capsys.readouterr().out
    store.copy(stills[4], f"{archive}/heart/{Path(stills[0]).name}")
    second = run(config(archive, there), Console())
    assert not second.skipped
    after = {name: store.info(f"{there}/{name}")["ETag"] for name, _ in files_below(locate(there))}
    assert set(before) == set(after)
    assert before != after


def test_interrupted_on_the_way_to_a_bucket_goes_on(
    remote_archive: str, local: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = f"{bucket}/interrupted"
    stream = ingest_tasks.stream

    def interrupted(*args: object) -> Iterator[int]:
        for done, items in enumerate(stream(*args)):  # type: ignore[arg-type]
            yield items
            if done == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(ingest_tasks, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config(remote_archive, there, "keep_fragments=true"), Console())
    monkeypatch.setattr(ingest_tasks, "stream", stream)
    store = s3fs.S3FileSystem()

    def fragments() -> dict[str, object]:
        store.invalidate_cache()
        found = store.find(f"{there}/fragments", detail=True)
        return {name: info["LastModified"] for name, info in found.items() if name.endswith(".arrow")}

    before = fragments()
    assert len(before) >= 4
    run(config(remote_archive, there, "keep_fragments=true"), Console())
    after = fragments()
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before
    assert digests(there) == digests(local)


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_zip_file_of_the_archive(
    local: Path, tiny_archive: Path, bucket: str, tmp_path: Path, place: str
) -> None:
    packed = tmp_path / "archive.zip"
    with zipfile.ZipFile(packed, "w") as made:
        for path in sorted(tiny_archive.rglob("*")):
            made.write(path, path.relative_to(tiny_archive))
    source = str(packed)
    if place == "bucket":
        s3fs.S3FileSystem().put(source, f"{bucket}/archive.zip")
        source = f"{bucket}/archive.zip"
    run(config(source, tmp_path / "shards"), Console())
    assert digests(tmp_path / "shards") == digests(local)
