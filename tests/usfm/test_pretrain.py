"""The loop without Ray: resume, non-finite losses, the same stream on any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from usfm.data.stream import ImageStream, StreamConfig, micro_batch_indices
from usfm.errors import CheckpointError, ConfigError, NonFiniteLoss, ShardError
from usfm.train.checkpoint import latest_checkpoint, load_weights, read_state
from usfm.train.context import PlainContext
from usfm.train.journal import read_journal
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

STEPS = 6


def config_of(shards: Path, run_dir: Path, **values) -> PretrainConfig:
    base = {
        "run_dir": str(run_dir), "seed": 5,
        "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 24}},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
        "objective": {"spatial_mask": {"unit_px": 8}},
        "batch": {"global_size": 12, "micro_size": 4}, "epochs": 2, "epoch_samples": 36,
        "optim": {"lr": 0.01}, "checkpoint_every": 2,
    }  # fmt: skip
    return PretrainConfig.build(base | values)


def run(config: PretrainConfig, stop_after: int | None = None, device: str = "cpu") -> list[dict]:
    context = PlainContext(torch.device(device))
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context), stop_after)
    timing = ("images_per_s", "data_wait", "observe_s")
    return [{k: v for k, v in row.items() if k not in timing} for row in read_journal(Path(config.run_dir))]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(latest_checkpoint(run_dir) / "model.safetensors")


@pytest.mark.parametrize("kind", ["pixel", "teacher"])
def test_a_stopped_run_goes_on_to_the_same_losses_and_weights(
    small_shards: Path, tmp_path: Path, kind: str
) -> None:
    objective = {"kind": kind, "spatial_mask": {"unit_px": 8}}
    whole = run(config_of(small_shards, tmp_path / "whole", objective=objective))
    assert [row["step"] for row in whole] == list(range(1, STEPS + 1))
    for stop in (1, 4):
        stopped = config_of(small_shards, tmp_path / f"stopped{stop}", objective=objective)
        assert run(stopped, stop_after=stop) == whole[:stop]
        assert run(stopped) == whole  # every value of every step, in order
        first, second = weights(tmp_path / "whole"), weights(tmp_path / f"stopped{stop}")
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_newest_checkpoint_is_passed_over(small_shards: Path, tmp_path: Path) -> None:
    whole = run(config_of(small_shards, tmp_path / "whole"))
    config = config_of(small_shards, tmp_path / "run")
    run(config, stop_after=4)
    newest = tmp_path / "run" / "step-00000004"
    (newest / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="does not match its hash"):
        read_state(newest)
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "step-00000002"
    assert run(config) == whole


def test_training_lowers_the_loss(small_shards: Path, tmp_path: Path) -> None:
    rows = run(config_of(small_shards, tmp_path, epochs=14))
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_organ_counts_are_balanced_and_logged(small_shards: Path, tmp_path: Path) -> None:
    rows = run(config_of(small_shards, tmp_path))
    total = {organ: sum(row["organ_count"][organ] for row in rows) for organ in rows[0]["organ_count"]}
    assert total == {"fetal_head": 24, "heart": 24, "kidney": 24}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_global_batch_is_the_same_on_any_number_of_workers(small_shards: Path, world: int) -> None:
    config = config_of(small_shards, Path("unused"), batch={"global_size": 16, "micro_size": 4}, epoch_samples=32)
    stream = ImageStream(config.data, config.seed)
    plan = PretrainPlan.derive(config, stream, world)

    class Worker(PlainContext):
        def __init__(self, rank: int) -> None:
            super().__init__()
            self.rank, self.world_size = rank, world

    feeds = [local_feed(stream, plan, config, Worker(rank))(1) for rank in range(world)]
    for step in range(1, plan.total_steps):
        lanes: dict[int, dict] = {}
        for rank, feed in enumerate(feeds):
            for lane in range(rank, 4, world):
                lanes[lane] = next(feed)
        whole = stream.read(np.arange(16 * step, 16 * (step + 1)))
        for name, array in whole.items():
            assert np.array_equal(np.concatenate([lanes[k][name].numpy() for k in range(4)]), array)


def test_two_workers_average_to_the_same_update(small_shards: Path, tmp_path: Path) -> None:
    """Lanes accumulated on one worker equal the mean over two workers' lanes, but for rounding."""
    config = config_of(small_shards, tmp_path, batch={"global_size": 8, "micro_size": 4},
                       encoder={"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0})  # fmt: skip
    from usfm.data.augment import random_crops
    from usfm.models.pixel_objective import PixelObjective

    torch.manual_seed(0)
    model = PixelObjective(config.encoder, config.objective, config.seed)
    stream = ImageStream(config.data, config.seed)

    def gradient(index: np.ndarray) -> torch.Tensor:
        batch = {k: torch.from_numpy(v) for k, v in stream.read(index).items()}
        model.zero_grad()
        model(random_crops(batch, 32, config.crop, config.seed), batch["index"]).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    lanes = [gradient(micro_batch_indices(0, lane, 2, 4)) for lane in range(2)]
    together = gradient(np.arange(8))
    assert torch.allclose((lanes[0] + lanes[1]) / 2, together, atol=1e-5)


def test_a_non_finite_loss_stops_before_the_step_and_names_the_samples(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usfm.data.augment import random_crops

    config = config_of(small_shards, tmp_path)
    run(config, stop_after=2)
    before = weights(tmp_path)

    def poisoned(batch: dict, *args) -> torch.Tensor:
        views = random_crops(batch, *args)
        views[batch["index"] == 41] = torch.nan  # in the second micro-batch of step 3
        return views

    monkeypatch.setattr("usfm.train.pretrain_step.random_crops", poisoned)
    with pytest.raises(NonFiniteLoss, match="the step was not taken"):
        run(config)
    record = json.loads((tmp_path / "nonfinite" / "step-00000003" / "rank-0.json").read_text())
    expected = np.arange(36, 48)
    assert record["index"] == expected.tolist()
    assert record["ids"] == ImageStream(config.data, config.seed).ids(expected)
    assert all(name.startswith("made/") for name in record["ids"])
    after = weights(tmp_path)
    assert all(torch.equal(before[k], after[k]) for k in before)  # nothing was saved after the refusal
    assert [row["step"] for row in read_journal(tmp_path)] == [1, 2, 3]


def test_a_feed_out_of_order_is_refused(small_shards: Path, tmp_path: Path) -> None:
    config = config_of(small_shards, tmp_path)
    context = PlainContext(torch.device("cpu"))

    def shifted(stream: ImageStream, plan: PretrainPlan):
        return lambda start: local_feed(stream, plan, config, context)(start + 1)

    with pytest.raises(ShardError, match="out of order at step 0, lane 0"):
        pretrain(config, context, shifted)


def test_another_seed_or_other_shards_do_not_go_on_with_a_run(small_shards: Path, tmp_path: Path) -> None:
    run(config_of(small_shards, tmp_path), stop_after=2)
    with pytest.raises(CheckpointError, match="seed=5, this run has 6"):
        run(config_of(small_shards, tmp_path, seed=6))


def test_batch_sizes_have_to_fit(small_shards: Path) -> None:
    config = config_of(small_shards, Path("unused"))
    stream = ImageStream(config.data, config.seed)
    with pytest.raises(ConfigError, match="global_size 12 is not workers"):
        PretrainPlan.derive(config, stream, 2)
    assert PretrainPlan.derive(config, stream, 2, even=False).accumulation == 2  # lanes 0, 2 and lane 1
    with pytest.raises(ConfigError, match="3 micro-batches of 4: too few for 4 workers"):
        PretrainPlan.derive(config, stream, 4, even=False)


def test_an_image_larger_than_the_canvas_is_refused(small_shards: Path) -> None:
    stream = ImageStream(StreamConfig(shards=str(small_shards), canvas_px=48), seed=0)
    with pytest.raises(ShardError, match="set data.canvas_px to 64"):
        stream.read(np.arange(12))


def test_weights_of_another_model_are_refused(small_shards: Path, tmp_path: Path) -> None:
    run(config_of(small_shards, tmp_path), stop_after=2)
    with pytest.raises(CheckpointError, match="keys differ"):
        load_weights(torch.nn.Linear(2, 2), latest_checkpoint(tmp_path))


def test_a_run_that_may_skip_leaves_out_the_step_and_goes_on(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usfm.data.augment import random_crops

    clean = run(config_of(small_shards, tmp_path / "clean"))

    def poisoned(batch: dict, *args) -> torch.Tensor:
        views = random_crops(batch, *args)
        views[batch["index"] == 41] = torch.nan
        return views

    monkeypatch.setattr("usfm.train.pretrain_step.random_crops", poisoned)
    rows = run(config_of(small_shards, tmp_path / "skips", nonfinite="skip"))
    assert [row["refused"] for row in rows] == [0, 0, 0, 1, 0, 0]
    assert rows[:3] == clean[:3]
    assert np.isfinite([row["loss"] for row in rows[4:]]).all()
    monkeypatch.setattr("usfm.train.refused.MAX_IN_A_ROW", 1)
    with pytest.raises(NonFiniteLoss, match="nor were the 0 before it"):
        run(config_of(small_shards, tmp_path / "stops", nonfinite="skip"))
