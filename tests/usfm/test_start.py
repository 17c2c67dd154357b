"""Where a run begins: another run's whole state, its weights, or an encoder alone."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from test_pretrain import config_of, run, weights

from usfm.errors import CheckpointError, ConfigError
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.journal import read_journal
from usfm.train.rundir import open_run
from usfm.train.start import StartConfig, check_start, pinned


@pytest.fixture(scope="module")
def finished(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, the last checkpoints at 4 and 6."""
    folder = tmp_path_factory.mktemp("finished")
    config = config_of(small_shards, folder)
    open_run(folder, config, {})
    run(config)
    return folder


def test_everything_goes_on_where_the_other_run_stopped(small_shards: Path, tmp_path: Path, finished: Path) -> None:
    flat = {"optim": {"lr": 0.01, "warmup": 0.0, "final_lr_ratio": 1.0}}  # no schedule: the length changes nothing
    straight = run(config_of(small_shards, tmp_path / "straight", epochs=4, **flat))
    first = tmp_path / "first"
    run(config_of(small_shards, first, **flat))
    start = {"source": str(first), "take": "everything"}
    longer = config_of(small_shards, tmp_path / "longer", epochs=4, start=start, **flat)
    assert run(longer, stop_after=9) == straight[6:9]
    assert run(longer) == straight[6:]  # from its own checkpoint now
    one, two = weights(tmp_path / "straight"), weights(tmp_path / "longer")
    assert all(torch.equal(one[name], two[name]) for name in one)
    at = {"source": str(first / "step-00000004"), "take": "everything"}
    run(config_of(small_shards, tmp_path / "at", epochs=4, start=at, **flat), stop_after=5)
    assert [row["step"] for row in read_journal(tmp_path / "at")] == [5]


def test_weights_start_a_fresh_stream_with_a_fresh_optimizer(
    small_shards: Path, tmp_path: Path, finished: Path
) -> None:
    config = config_of(
        small_shards, tmp_path, seed=9, optim={"lr": 1e-12}, start={"source": str(finished), "take": "weights"}
    )
    rows = run(config, stop_after=1)
    assert rows[0]["step"] == 1
    old, new = weights(finished), weights(tmp_path)
    assert all(torch.allclose(old[name], new[name], atol=1e-7) for name in old)
    optimizer = torch.load(latest_checkpoint(tmp_path) / "optimizer.pt", weights_only=True)
    assert {float(state["step"]) for state in optimizer["state"].values()} == {1.0}


def test_an_encoder_alone_from_a_run_or_a_bundle(small_shards: Path, tmp_path: Path, finished: Path) -> None:
    config = config_of(small_shards, tmp_path / "x")
    torch.manual_seed(1)
    encoder = Encoder(config.encoder)
    save_bundle(tmp_path / "bundle", encoder, BundleSpec(kind="embedding", name="e", encoder=config.encoder))
    for number, source in enumerate((finished, tmp_path / "bundle")):
        folder = tmp_path / f"run{number}"
        start = {"source": str(source), "take": "encoder"}
        run(config_of(small_shards, folder, optim={"lr": 1e-12}, start=start), stop_after=1)
        got = {k.removeprefix("encoder."): v for k, v in weights(folder).items() if k.startswith("encoder.")}
        wanted = (
            encoder.state_dict()
            if number
            else {k.removeprefix("encoder."): v for k, v in weights(finished).items() if k.startswith("encoder.")}
        )
        assert all(torch.allclose(got[name], wanted[name], atol=1e-7) for name in wanted)
        decoder = weights(folder)["decoder.project.weight"]
        assert not torch.allclose(decoder, weights(finished)["decoder.project.weight"], atol=1e-4)


def test_a_teacher_begins_as_the_loaded_encoder(small_shards: Path, tmp_path: Path, finished: Path) -> None:
    objective = {"kind": "teacher", "spatial_mask": {"unit_px": 8}}
    start = {"source": str(finished), "take": "encoder"}
    run(config_of(small_shards, tmp_path, optim={"lr": 1e-12}, objective=objective, start=start), stop_after=1)
    got, wanted = weights(tmp_path), weights(finished)
    names = [name for name in got if name.startswith("teacher.")]
    assert len(names) > 50
    for name in names:
        assert torch.allclose(got[name], wanted[name.replace("teacher.", "encoder.")], atol=1e-7), name


def test_a_run_goes_on_from_another_with_its_own_decay(small_shards: Path, tmp_path: Path, finished: Path) -> None:
    start = {"source": str(finished), "take": "everything"}
    config = config_of(small_shards, tmp_path, epochs=4, start=start, optim={"lr": 0.01, "weight_decay": 0.3})
    run(config, stop_after=8)
    saved = torch.load(latest_checkpoint(tmp_path) / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in saved["param_groups"]} == {0.0, 0.3}


def test_a_source_that_goes_on_training_is_pinned_to_the_checkpoint_it_had(tmp_path: Path, finished: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    newest = latest_checkpoint(other)
    start = StartConfig(source=str(other))
    first = pinned(start, tmp_path / "new")
    assert first.source == str(newest)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text(yaml.safe_dump({"start": first.model_dump()}))
    shutil.rmtree(newest)  # another one is the newest now
    assert pinned(start, tmp_path / "new") == first
    assert pinned(start, tmp_path / "another").source == str(other / "step-00000004")


def test_what_cannot_be_continued_is_refused_before_the_start(tmp_path: Path, finished: Path) -> None:
    whole = StartConfig(source=str(finished))
    with pytest.raises(CheckpointError, match="seed=5, this run has 6"):
        check_start(whole, {"seed": 6}, 12)
    with pytest.raises(ConfigError, match="is at step 6, and this run ends at step 6; raise epochs"):
        check_start(whole, {"seed": 5}, 6)
    assert check_start(whole, {"seed": 5}, 12) == 6
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="for an exported model or a weight file set start.take=encoder"):
        check_start(StartConfig(source=str(tmp_path / "weights.pth"), take="weights"), {}, 12)
    with pytest.raises(CheckpointError, match="neither a pre-training run nor an exported model nor a weight file"):
        check_start(StartConfig(source=str(tmp_path / "none"), take="encoder"), {}, 12)
