"""Observers change nothing, repeat nothing, lose nothing."""

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from shard_factory import HEAD, VIEW
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_pretrain import config_of, weights

from usfm.errors import ConfigError, DataError, EnvironmentProblem, UnreadableFile
from usfm.models.objectives import OBJECTIVES
from usfm.train.context import PlainContext
from usfm.train.journal import read_journal, scalars_of
from usfm.train.observe import observers as observers_module
from usfm.train.observe.gradients import gradient_norms, parts_of
from usfm.train.observe.observers import Observers
from usfm.train.observe.untouched import untouched
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

OBSERVE = {
    "every": 2, "panels": 2,
    "probe": {"tasks": [HEAD, VIEW], "neighbours": 5, "bootstrap": 50},
}  # fmt: skip
TIMES = ("images_per_s", "data_wait", "observe_s")
OFF = {"every": 0}


def run(config: PretrainConfig, stop_after: int | None = None) -> list[dict]:
    context = PlainContext(torch.device("cpu"))
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context), stop_after)
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_journal(Path(config.run_dir))]


def watched(shards: Path, run_dir: Path, **values) -> PretrainConfig:
    return config_of(shards, run_dir, **({"observe": OBSERVE} | values))


@pytest.fixture(scope="module")
def whole(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("watched")
    return folder, run(watched(small_shards, folder))


def is_observed(name: str) -> bool:
    return name.split("/")[0] in ("probe", "rank", "grad", "mix")


def test_a_run_that_is_watched_is_the_same_run(small_shards: Path, whole, tmp_path: Path) -> None:
    folder, rows = whole
    alone = run(config_of(small_shards, tmp_path, observe=OFF))
    assert [{k: v for k, v in row.items() if not is_observed(k)} for row in rows] == [
        {k: v for k, v in row.items() if not is_observed(k)} for row in alone
    ]
    ours, theirs = weights(folder), weights(tmp_path)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(name.startswith(("probe/", "rank/", "grad/")) for row in alone for name in row)


def test_every_other_step_is_observed(whole) -> None:
    folder, rows = whole
    names = {
        "probe/head/linear_dice", "probe/head/linear_iou_low", "probe/view/knn_balanced_accuracy",
        "probe/view/linear_macro_f1_high", "probe/organ/knn_macro_f1", "rank/rankme", "rank/mean_cosine",
        "grad/patch_embed", "grad/blocks_late", "grad/decoder", "mix/heart",
    }  # fmt: skip
    for row in rows:
        assert names <= set(row) if row["step"] % 2 == 0 else not any(n.startswith("probe/") for n in row)
        assert "mix/heart" in row
    assert sorted(p.name for p in (folder / "panels").iterdir()) == [f"step-{n:08d}.png" for n in (2, 4, 6)]
    assert all("observe_s" in row for row in read_journal(folder) if row["step"] % 2 == 0)


def test_tensorboard_has_the_same_numbers_and_the_pictures(whole) -> None:
    folder, rows = whole
    board = EventAccumulator(str(folder / "tensorboard"), {"images": 0, "scalars": 0}).Reload()
    flat = {row["step"]: scalars_of(row) for row in rows}
    for name in ("probe/view/knn_macro_f1", "grad/decoder", "organ_loss/heart", "mix/kidney"):
        seen = {event.step: event.value for event in board.Scalars(name)}
        assert seen == pytest.approx({step: row[name] for step, row in flat.items() if name in row}, rel=1e-6)
    shown = board.Images("panels")
    assert [event.step for event in shown] == [2, 4, 6]
    ours = cv2.imread(str(folder / "panels" / "step-00000004.png"))
    theirs = cv2.imdecode(np.frombuffer(shown[1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(ours, theirs)
    assert len(np.unique(ours)) > 50


def test_a_resumed_run_observes_what_the_whole_run_observed(small_shards: Path, whole, tmp_path: Path) -> None:
    folder, rows = whole
    for stop in (3, 4):
        config = watched(small_shards, tmp_path / str(stop), checkpoint_every=2)
        run(config, stop_after=stop)
        assert run(config) == rows  # every value, once, in order
        for step in (2, 4, 6):
            ours, theirs = (
                cv2.imread(str(run_dir / "panels" / f"step-{step:08d}.png"))[60:]  # below the run's name
                for run_dir in (folder, tmp_path / str(stop))
            )
            assert np.array_equal(ours, theirs)


def test_the_mix_is_the_share_of_all_samples_so_far(whole) -> None:
    _, rows = whole
    drawn = dict.fromkeys(rows[0]["organ_count"], 0)
    for row in rows:
        for organ, count in row["organ_count"].items():
            drawn[organ] += count
        for organ, count in drawn.items():
            assert row[f"mix/{organ}"] == pytest.approx(count / row["samples"])


def test_parts_add_up_to_the_gradient_norm(whole) -> None:
    _, rows = whole
    for row in rows[1::2]:
        squares = [value**2 for name, value in row.items() if name.startswith("grad/")]
        assert len(squares) == 6
        assert np.sqrt(sum(squares)) == pytest.approx(row["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("kind", ["pixel", "teacher"])
def test_every_trained_parameter_is_in_one_part(kind: str) -> None:
    config = config_of(Path("unused"), Path("unused"), objective={"kind": kind, "spatial_mask": {"unit_px": 8}})
    objective = OBJECTIVES[kind](config.encoder, config.objective, 0)
    parts = parts_of(objective)
    trained = [id(p) for p in objective.parameters() if p.requires_grad]
    assert sorted(id(p) for members in parts.values() for p in members) == sorted(trained)
    depth = len(objective.encoder.beit.blocks)
    thirds = [len({id(p) for p in parts[f"blocks_{name}"]}) for name in ("early", "middle", "late")]
    assert thirds == [depth // 3 * len(list(objective.encoder.beit.blocks[0].parameters()))] * 3
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    norms = gradient_norms(parts)
    assert float(norms["decoder"]) ** 2 == pytest.approx(sum(p.numel() for p in parts["decoder"]), rel=1e-4)


def test_untouched_restores_modes_generators_and_gradients() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.BatchNorm1d(4))
    model[2].eval()  # a mode of its own
    model(torch.ones(3, 4)).sum().backward()
    gradient = model[0].weight.grad.clone()
    statistics = model[2].running_mean.clone()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    with untouched(model):
        assert not any(module.training for module in model.modules())
        made = model(torch.ones(3, 4))
        assert not made.requires_grad
        random.random(), np.random.random(), torch.rand(7)  # noqa: NPY002
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert (random.random(), np.random.random(), torch.rand(1)) == expected  # noqa: NPY002
    assert torch.equal(model[0].weight.grad, gradient)
    assert torch.equal(model[2].running_mean, statistics)


def test_a_task_that_cannot_be_scored_is_refused_before_the_first_step(small_shards: Path, tmp_path: Path) -> None:
    other = VIEW | {"classes": {"bright": ["a"], "oblique": ["c"]}}
    config = watched(small_shards, tmp_path, observe={"every": 2, "probe": {"tasks": [other]}})
    with pytest.raises(ConfigError, match="probe task view: class 'oblique' come from 0 known patients"):
        run(config)
    assert not list(read_journal(tmp_path))


def test_what_cannot_be_looked_at_is_said_and_the_run_goes_on(
    small_shards: Path, whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise MemoryError("no room for this")

    monkeypatch.setattr(observers_module, "probe", fails)
    monkeypatch.setattr(observers_module, "draw_panels", fails)
    rows = run(watched(small_shards, tmp_path))
    for ours, theirs in zip(rows, whole[1], strict=True):
        assert ours == {k: v for k, v in theirs.items() if not k.startswith(("probe/", "rank/"))}
    said = [(record.message, bool(record.exc_info)) for record in caplog.records]
    assert said == [
        (f"{what} of step {step} left out, training goes on: MemoryError: no room for this", step == 2)
        for step in (2, 4, 6)
        for what in ("probes", "panels")
    ]


@pytest.mark.parametrize("error", [EnvironmentProblem, UnreadableFile, DataError, OSError])
def test_probe_rows_that_cannot_be_read_are_no_reason_to_stop(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:  # fmt: skip
    def away(*_: object) -> None:
        raise error("the storage is away")

    monkeypatch.setattr(observers_module, "load_probe_set", away)
    rows = run(watched(small_shards, tmp_path), stop_after=2)
    assert len(rows) == 2
    assert "grad/decoder" in rows[1]
    assert not any(name.startswith("probe/") for name in rows[1])
    assert (tmp_path / "panels" / "step-00000002.png").exists()
    assert [r.message for r in caplog.records] == ["observations are incomplete: the storage is away"]


def test_a_task_that_refuses_a_row_is_left_out_alone(
    small_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strict = VIEW | {"name": "strict", "organs": ["heart", "fetal_head"]}  # with rows whose label is of no class
    config = watched(small_shards, tmp_path, observe=OBSERVE | {"probe": {"tasks": [strict, VIEW]}})
    (row,) = run(config, stop_after=2)[1:]
    assert {"probe/view/knn_macro_f1", "probe/organ/knn_macro_f1", "rank/rankme", "rank/mean_cosine"} <= set(row)
    assert not any(name.startswith("probe/strict/") for name in row)
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("probe task strict: row made/fetal_head/")
    assert said.endswith("The run goes on without this probe task, and its feature rank without the task's rows")


def test_workers_but_the_first_look_at_nothing(small_shards: Path, tmp_path: Path) -> None:
    config = watched(small_shards, tmp_path)

    class Second(PlainContext):
        rank, world_size = 1, 3

    from usfm.data.stream import ImageStream

    plan = PretrainPlan.derive(config, ImageStream(config.data, config.seed), 3)
    objective = OBJECTIVES["pixel"](config.encoder, config.objective, 0)
    observers = Observers(config, plan, Second(torch.device("cpu")), objective, 0)
    assert observers.after(2, {"organ_count": {"heart": 4}}, None) == {}
