"""The stream from shards: damage, remote shards, sources within organs."""

import errno
import json
import pickle
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest
from shard_factory import row
from upath import UPath

from usfm.data import patience
from usfm.data.patience import patiently
from usfm.data.schema import ROW_SCHEMA
from usfm.data.shard_cache import ShardCache
from usfm.data.shard_reader import CacheConfig, ShardReader
from usfm.data.shards import ShardIndex, write_index, write_shard
from usfm.data.shares import SamplingConfig
from usfm.data.stream import ImageStream, StreamConfig, _of_process
from usfm.errors import EnvironmentProblem, ShardError

SAMPLES = np.arange(192)


def raised(error: Exception) -> NoReturn:
    raise error


def stream_of(shards: Path | str, **values) -> ImageStream:
    values = {"shards": str(shards), "canvas_px": 64, "sampling": SamplingConfig(chunk_size=24)} | values
    return ImageStream(StreamConfig(**values), seed=3)


@pytest.fixture
def copied(small_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_shards, tmp_path / "shards"))


@pytest.mark.parametrize("damage", ["missing", "cut", "noise", "other"])
def test_samples_of_a_lost_shard_are_replaced_by_the_same_organs(
    small_shards: Path, copied: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = stream_of(small_shards).read(SAMPLES)
    lost = "train/heart/00001.arrow"
    path = copied / lost
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "noise":
        path.write_bytes(bytes(1000))
    else:  # a whole shard, but of another ingest
        shutil.copy(copied / "train/heart/00000.arrow", path)
    stream = stream_of(copied)
    got = stream.read(SAMPLES)
    replaced = got["replaced"] == 1
    organ = list(stream.rows_by_organ).index("heart")
    assert replaced.any()
    assert (got["organ"] == whole["organ"]).all()
    assert (got["organ"][replaced] == organ).all()
    assert set(stream.paths(SAMPLES[replaced])) == {lost}
    for name in ("image", "height", "width"):  # the others are untouched
        assert np.array_equal(got[name][~replaced], whole[name][~replaced]), name
    hearts = {image.tobytes() for image in whole["image"][whole["organ"] == organ]}
    assert {image.tobytes() for image in got["image"][replaced]} <= hearts  # no blanks: real hearts
    assert len({image.tobytes() for image in got["image"][replaced]}) > 5  # and not one image again and again
    # the same answer whatever is read together, in whatever order
    for start in (0, 50):
        assert np.array_equal(stream_of(copied).read(SAMPLES[start:])["image"], got["image"][start:])
    assert sum("replaced by others of the same organ" in r.message for r in caplog.records) == 3  # once a stream


def test_one_damaged_image_costs_one_row(small_shards: Path, copied: Path) -> None:
    reader, name = ShardReader(small_shards), "train/heart/00001.arrow"
    rows = pa.Table.from_batches([reader.batch(name)]).to_pylist()
    rows[4]["image"] = rows[4]["image"][: len(rows[4]["image"]) // 2]
    rows[9]["image"] = b""
    write_shard(copied, name, "train", "heart", pa.Table.from_pylist(rows, ROW_SCHEMA))
    whole, stream = stream_of(small_shards), stream_of(copied)
    got, ids = stream.read(SAMPLES), whole.ids(SAMPLES)
    broken = {rows[9]["id"], rows[4]["id"]}
    replaced = {ids[n] for n in np.flatnonzero(got["replaced"])}
    assert rows[9]["id"] in replaced <= broken
    assert stream.ids(SAMPLES) == ids
    here = ids.index(rows[9]["id"])
    there = ids.index(rows[10]["id"])  # the next row stands in
    assert np.array_equal(got["image"][here], got["image"][there])


def test_an_organ_without_any_readable_shard_stops_the_stream(copied: Path) -> None:
    for path in (copied / "train" / "heart").iterdir():
        path.unlink()
    with pytest.raises(ShardError, match="not one shard of heart in .* can be read; restore them"):
        stream_of(copied).read(SAMPLES)


def sources_in_organs(root: Path) -> Path:
    files = []
    for organ, sources in {"breast": {"busi": 30, "busbra": 6}, "heart": {"camus": 12}}.items():
        for source, count in sources.items():
            rows = [row(organ, "train", 100 * len(source) + n) | {"source": source} for n in range(count)]
            table = pa.Table.from_pylist(rows, ROW_SCHEMA)
            files.append(
                write_shard(root, f"train/{organ}/{source}/00000.arrow", "train", organ, table, source, "GE")
            )
    write_index(root, "made", files)
    return root


def test_sources_are_balanced_within_their_organ(tmp_path: Path) -> None:
    shards = sources_in_organs(tmp_path)
    sampling = SamplingConfig(chunk_size=48, within="source")
    stream = stream_of(shards, sampling=sampling)
    assert stream.plan.names == ["breast/busbra", "breast/busi", "heart/camus"]
    assert stream.organ_shares == pytest.approx({"breast": 0.5, "heart": 0.5})
    ids = stream.ids(np.arange(480))
    assert [sum(f"/{s}" in path for path in ids) for s in ("breast", "heart")] == [240, 240]
    assert np.bincount(stream.plan.locate(np.arange(480)).tape).tolist() == [120, 120, 240]
    assert np.bincount(stream.read(np.arange(48))["organ"]).tolist() == [24, 24]
    natural = stream_of(shards, sampling=SamplingConfig(chunk_size=48))
    assert natural.plan.names == ["breast", "heart"]
    by_device = stream_of(shards, sampling=SamplingConfig(chunk_size=48, within="device"))
    assert by_device.plan.names == ["breast/GE", "heart/GE"]


def test_a_lost_source_is_replaced_by_the_organs_other_source(tmp_path: Path) -> None:
    shards = sources_in_organs(tmp_path)
    (shards / "train/breast/busbra/00000.arrow").unlink()
    got = stream_of(shards, sampling=SamplingConfig(chunk_size=48, within="source")).read(np.arange(48))
    assert got["replaced"].sum() == 12
    assert np.bincount(got["organ"]).tolist() == [24, 24]


def test_a_stream_is_not_opened_on_other_shards(small_shards: Path, copied: Path) -> None:
    stream = stream_of(copied)
    travelling = pickle.dumps(stream)
    assert np.array_equal(pickle.loads(travelling).read(SAMPLES)["image"], stream.read(SAMPLES)["image"])
    document = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(document | {"fingerprint": "another ingest"}))
    _of_process.cache_clear()  # as in a process that starts now
    with pytest.raises(ShardError, match="are not those of this run"):
        pickle.loads(travelling)


def test_offsets_that_point_elsewhere_are_damage_and_no_crash(small_shards: Path, copied: Path) -> None:
    name = "train/heart/00001.arrow"
    batch = ShardReader(copied).batch(name)
    offsets = batch.column("image").buffers()[1].to_pybytes()
    path = copied / name
    data = path.read_bytes()
    at = data.index(offsets)
    path.write_bytes(data[: at + 8] + b"\xff\xff\xff\x7f" * 4 + data[at + 24 :])
    got = stream_of(copied).read(SAMPLES)
    assert got["replaced"].any()
    assert set(got["organ"][got["replaced"] > 0]) == {1}


@pytest.fixture
def remote(small_shards: Path) -> UPath:
    """The shards in fsspec's memory file system: not local, so they have to be fetched."""
    root = UPath("memory://remote-shards")
    for path in small_shards.rglob("*"):
        if path.is_file():
            target = root / path.relative_to(small_shards).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


def test_remote_shards_give_the_same_stream(small_shards: Path, remote: UPath, tmp_path: Path) -> None:
    cache = CacheConfig(folder=str(tmp_path / "cache"))
    here, there = stream_of(small_shards), stream_of(str(remote), cache=cache)
    assert there.fingerprint == here.fingerprint
    for name, values in here.read(SAMPLES).items():
        assert np.array_equal(there.read(SAMPLES)[name], values), name
    fetched = {path.stem for path in (tmp_path / "cache").glob("*.arrow")}
    assert fetched == {f.sha256 for f in ShardIndex.load(small_shards).files if f.split == "train"}
    # a second process reads the copies: the storage may be gone by then
    index = (remote / "index.json").read_bytes()
    remote.fs.rm(remote.path, recursive=True)
    (remote / "index.json").write_bytes(index)
    assert np.array_equal(stream_of(str(remote), cache=cache).read(SAMPLES)["image"], here.read(SAMPLES)["image"])


def test_a_remote_shard_with_other_bytes_is_not_used(remote: UPath, tmp_path: Path) -> None:
    path = remote / "train/heart/00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # one bit, somewhere in an image
    path.write_bytes(bytes(data))
    got = stream_of(str(remote), cache=CacheConfig(folder=str(tmp_path / "cache"))).read(SAMPLES)
    assert got["replaced"].any()
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_the_cache_keeps_to_its_limit(remote: UPath, tmp_path: Path) -> None:
    files = [file for file in ShardIndex.load(remote).files if file.split == "train"]
    largest = max(file.bytes for file in files)
    cache = ShardCache(tmp_path / "cache", limit_bytes=2 * largest)
    for file in files * 2:
        local = cache.fetch(remote / file.path, file.sha256)
        assert local.read_bytes() == (remote / file.path).read_bytes()
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.arrow")) <= 2 * largest
    with pytest.raises(ShardError, match="is missing"):
        cache.fetch(remote / "nowhere.arrow", "0" * 64)


def test_a_copy_that_another_process_evicts_before_it_is_opened_is_fetched_again(
    remote: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, evictions, fetch = CacheConfig(folder=str(tmp_path / "cache")), [3], ShardCache.fetch

    def evicted(self: ShardCache, *args) -> Path:
        local = fetch(self, *args)
        if evictions[0]:
            evictions[0] -= 1
            local.unlink()
        return local

    monkeypatch.setattr(ShardCache, "fetch", evicted)
    got = stream_of(str(remote), cache=cache).read(SAMPLES)
    assert evictions == [0]
    assert not got["replaced"].any()
    evictions[0] = 10**9
    other = CacheConfig(folder=str(tmp_path / "small"))
    with pytest.raises(EnvironmentProblem, match="limit_gb"):  # no reason to replace its samples
        stream_of(str(remote), cache=other).read(SAMPLES)


def test_a_local_copy_that_cannot_be_opened_for_a_moment_is_waited_for(
    remote: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, waits, memory_map = [OSError(errno.EMFILE, "too many open files")], [], pa.memory_map
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    monkeypatch.setattr(pa, "memory_map", lambda path: raised(failures.pop()) if failures else memory_map(path))
    reader = ShardReader(remote, CacheConfig(folder=str(tmp_path / "cache")))
    assert reader.batch(reader.index.files[0].path).num_rows == reader.index.files[0].rows
    assert waits == [0.5]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "too many open files"), EnvironmentProblem),
        (PermissionError(errno.EACCES, "permission denied"), ShardError),
    ],
)
def test_a_local_copy_that_cannot_be_opened_at_all_is_told_of(
    remote: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, told: type[Exception]
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(patience.time, "sleep", lambda pause: None)
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(pa, "memory_map", lambda path: raised(error))
    reader = ShardReader(remote, CacheConfig(folder=str(tmp_path / "cache")))
    with pytest.raises(told, match=error.strerror):
        reader.batch(reader.index.files[0].path)


def test_a_storage_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    clock = iter(range(1000))
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: float(next(clock)))
    answers = iter([OSError("503 slow down"), TimeoutError("timed out"), b"shard"])

    def read() -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(read, "s3://b/x") == b"shard"
    assert waits == [0.5, 1.0]

    def never() -> bytes:
        raise OSError("connection refused")

    with pytest.raises(EnvironmentProblem, match=r"s3://b/x could not be read for 20 s: connection refused"):
        patiently(never, "s3://b/x", patience_s=20)
    assert max(waits) <= 15.0


def test_an_index_may_state_how_rows_were_made(small_shards: Path, copied: Path) -> None:
    document = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(document | {"prepare": {"longest_side_px": 64}}))
    assert ShardIndex.load(copied).prepare == {"longest_side_px": 64}
