import csv
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import ingest, ingest_tasks
from ray_jobs.console import Console
from ray_jobs.ingest import IngestConfig, IngestResult, main, plan, resolve_input, run
from usfm.config import load_config
from usfm.data.assemble import read_quarantine
from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardIndex
from usfm.errors import ConfigError, DataError

RECIPE = Path(ingest.__file__).parent / "recipes" / "ingest.yaml"
SMALL = ["prepare.longest_side_px=64", "prepare.frames.max_frames=3", "rows_per_shard=8", "items_per_chunk=6"]
DISTINCT = "duplicates.near=false"  # simulated images of one organ look alike


def digests(root: Path) -> dict[str, str]:
    """Of every file but the two that know places and times."""
    own = ("config.yaml", "ingest.json")
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name not in own and "fragments" not in p.parts)
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def config(source: Path, output: Path, *more: str) -> IngestConfig:
    return load_config(IngestConfig, RECIPE, [f"input={source}", f"output={output}", *SMALL, DISTINCT, *more])


@pytest.fixture(scope="module")
def shards(ray_cluster: None, tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> IngestResult:
    return run(config(tiny_archive, tmp_path_factory.mktemp("ingest") / "shards", "keep_fragments=true"), Console())


@pytest.mark.ray
def test_simulated_archive_to_shards(shards: IngestResult, tiny_archive: Path) -> None:
    assert (shards.input, shards.input_kind, shards.skipped) == (tiny_archive, "manifest", False)
    assert shards.quarantined == {}
    reader = ShardReader(shards.output)
    rows = reader.table(reader.index.files).to_pydict()
    assert len(rows["id"]) == shards.rows == sum(sum(counts.values()) for counts in shards.organs.values())
    assert len(set(rows["id"])) == shards.rows
    with (tiny_archive / "manifest.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert set(rows["organ"]) == {line["organ"] for line in lines} == set(shards.organs)
    assert {name.rpartition("#")[0] for name in rows["id"]} == {
        f"{line['source']}/{line['path']}" for line in lines
    }
    for group in set(rows["group"]) - {""}:
        assert len({s for g, s in zip(rows["group"], rows["split"], strict=True) if g == group}) == 1
    resolved = load_config(IngestConfig, shards.output / "config.yaml")
    assert resolved == config(tiny_archive, shards.output, "keep_fragments=true")


@pytest.mark.ray
def test_second_run_touches_nothing(
    shards: IngestResult, tiny_archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> dict[str, tuple[int, str]]:
        files = [path for path in shards.output.rglob("*") if path.is_file()]
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files
        }

    before = state()
    again = run(config(tiny_archive, shards.output), Console())
    assert state() == before
    assert again.skipped
    assert (again.rows, again.organs, again.quarantined) == (shards.rows, shards.organs, shards.quarantined)
    assert "nothing was touched" in capsys.readouterr().out


@pytest.mark.ray
def test_another_run_with_other_tasks_is_byte_identical(
    shards: IngestResult, tiny_archive: Path, tmp_path: Path
) -> None:
    run(config(tiny_archive, tmp_path / "b", "items_per_chunk=3"), Console())
    assert digests(tmp_path / "b") == digests(shards.output)
    assert not (tmp_path / "b" / "fragments").exists()


@pytest.mark.ray
def test_killed_half_way_goes_on_and_is_byte_identical(
    shards: IngestResult, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(list((shards.output / "fragments").iterdir())) > 6
    stream = ingest_tasks.stream

    def interrupted(*args: object) -> object:
        for done, items in enumerate(stream(*args)):  # type: ignore[arg-type]
            yield items
            if done == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(ingest_tasks, "stream", interrupted)
    again = config(tiny_archive, tmp_path / "b", "keep_fragments=true")
    with pytest.raises(KeyboardInterrupt):
        run(again, Console())
    assert not (tmp_path / "b" / "index.json").exists()

    monkeypatch.setattr(ingest_tasks, "stream", stream)
    run(again, Console())
    assert digests(tmp_path / "b") == digests(shards.output)


@pytest.mark.ray
def test_finished_fragments_are_not_made_again(shards: IngestResult, tiny_archive: Path, tmp_path: Path) -> None:
    source, target = shards.output / "fragments", tmp_path / "b" / "fragments"
    target.mkdir(parents=True)
    whole = sorted(path.name for path in source.iterdir())
    for name in whole[::2]:
        shutil.copy2(source / name, target / name)
    (target / whole[1]).with_suffix(".77.partial").write_bytes(b"half a fragment")
    before = {name: (target / name).stat().st_mtime_ns for name in whole[::2]}
    run(config(tiny_archive, tmp_path / "b", "keep_fragments=true"), Console())
    assert {name: (target / name).stat().st_mtime_ns for name in before} == before
    assert digests(tmp_path / "b") == digests(shards.output)


@pytest.mark.ray
def test_a_file_that_crashes_its_decoder_is_quarantined(
    ray_cluster: None, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ingest_tasks.process

    def process(batch: Any, **settings: Any) -> Any:
        from usfm.data import fragments

        whole = fragments.prepare

        def crashing(item: Any, *rest: Any) -> Any:
            if item.name.endswith("carotid_0001.gif"):
                os._exit(139)  # as a segmentation fault inside a codec would
            return whole(item, *rest)

        fragments.prepare = crashing
        try:
            return plain(batch, **settings)
        finally:
            fragments.prepare = whole

    monkeypatch.setattr(ingest_tasks, "process", process)
    (tmp_path / "a" / "carotid").mkdir(parents=True)
    for path in (tiny_archive / "carotid").glob("*.gif"):
        shutil.copy(path, tmp_path / "a" / "carotid")
    result = run(config(tmp_path / "a", tmp_path / "out"), Console())
    assert result.rows == 2
    (entry,) = read_quarantine(result.output)
    assert entry.name == "carotid/carotid_0001.gif"
    assert entry.reason.startswith("the process ended 3 times while it was read")


@pytest.mark.ray
def test_bad_files_are_quarantined_and_never_stop_the_job(
    ray_cluster: None, tiny_archive: Path, tmp_path: Path
) -> None:
    root = tmp_path / "archive"
    (root / "heart").mkdir(parents=True)
    (root / "kidney").mkdir()
    good = sorted((tiny_archive / "heart").glob("*.jpg"))
    shutil.copy(good[0], root / "heart" / "good.jpg")
    shutil.copy(good[1], root / "heart" / "a_jpeg_named.png")
    shutil.copy(good[0], root / "kidney" / "twice.jpg")
    (root / "heart" / "cut.jpg").write_bytes(good[2].read_bytes()[:2000])
    (root / "heart" / "empty.dcm").touch()
    (root / "heart" / "text.png").write_text("not a picture", encoding="utf-8")
    (root / "heart" / "readme.txt").write_text("ignored", encoding="utf-8")
    (root / "stray.png").write_bytes(good[0].read_bytes())
    result = run(config(root, tmp_path / "out", "source=folder"), Console())
    assert result.input_kind == "folder"
    assert result.organs == {"heart": {"train": 2, "val": 0, "test": 0}}
    entries = {entry.name: (entry.kind, entry.reason) for entry in read_quarantine(result.output)}
    reason = entries.pop("heart/cut.jpg")[1]
    assert reason.startswith("damaged still: image file is truncated")
    assert entries == {
        "heart/empty.dcm": ("file", "the file is empty (0 bytes)"),
        "heart/text.png": ("file", "text, not an image, clip or DICOM file"),
        "stray.png": ("file", "lies in no organ folder; expected <organ>/.../file"),
        "kidney/twice.jpg#0": (
            "duplicate",
            "the same file and frame as archive/heart/good.jpg#0, which was kept",
        ),
    }


@pytest.mark.ray
def test_other_configuration_rebuilds_and_warns_of_organs_without_training(
    ray_cluster: None, tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = "exclude_organs=[fetal_head, nerve, heart, lung, muscle, breast, liver, abdomen, lymph_node, kidney]"
    first = run(config(tiny_archive, tmp_path / "out", only), Console())
    assert set(first.organs) == {"carotid"}
    capsys.readouterr()
    other = run(config(tiny_archive, tmp_path / "out", only, "split.test=0.89"), Console())
    text = capsys.readouterr().out
    assert "was made from other items or another configuration" in text
    assert other.organs["carotid"]["test"] == 3
    assert "carotid has no train rows" in text
    assert {file.split for file in ShardIndex.load(tmp_path / "out").files} == {"test"}


@pytest.mark.ray
def test_nothing_usable_is_an_error_with_the_place_of_the_reasons(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "a" / "heart").mkdir(parents=True)
    (tmp_path / "a" / "heart" / "x.png").touch()
    for _ in range(2):  # the second time the fingerprint is known
        with pytest.raises(
            DataError, match="not one item of .* could be used; the reasons are in .*quarantine.csv"
        ):
            run(config(tmp_path / "a", tmp_path / "out"), Console())


def test_plan_touches_nothing(tiny_archive: Path, tmp_path: Path) -> None:
    drawn = plan(config(tiny_archive, tmp_path / "out"))
    assert drawn["items"] == sum(drawn["organs"].values()) == sum(drawn["suffixes"].values())
    assert drawn["chunks"] == -(-drawn["items"] // 6)
    assert (drawn["kind"], drawn["up_to_date"]) == ("manifest", False)
    assert list(tmp_path.iterdir()) == []


def test_input_is_found_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("USFM_CORPUS", raising=False)
    auto = IngestConfig(output="runs/demo/shards")
    assert resolve_input(auto) == (Path("runs/demo/simulated"), "simulator")
    assert plan(auto)["note"] == "the archive would be simulated first"
    assert list((tmp_path / "here").iterdir()) == []
    (tmp_path / "shared" / "corpus").mkdir(parents=True)
    (tmp_path / "shared" / "corpus" / "manifest.csv").touch()
    assert resolve_input(auto) == (Path("../shared/corpus"), "archive")
    monkeypatch.setenv("USFM_CORPUS", "/archive")
    assert resolve_input(auto) == (Path("/archive"), "archive")
    assert resolve_input(IngestConfig(input="mine")) == (Path("mine"), "archive")


def test_command_line(tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"input={tiny_archive}", f"output={tmp_path / 'out'}", "--dry-run"]) == 0
    assert '"kind": "manifest"' in capsys.readouterr().out
    assert main([f"input={tmp_path / 'nowhere'}"]) == 2
    assert "no input at" in capsys.readouterr().out
    assert main(["prepare.longest_side=64"]) == 2
    assert "did you mean prepare.longest_side_px?" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_wrong_configuration(tiny_archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exclude_organs names spleen; the input has .*kidney"):
        plan(config(tiny_archive, tmp_path, "exclude_organs=[spleen]"))
    with pytest.raises(ConfigError, match="rows_per_shard"):
        config(tiny_archive, tmp_path, "rows_per_shard=0")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare fits no source: it has no manifest.csv"):
        plan(config(tmp_path / "bare", tmp_path))
