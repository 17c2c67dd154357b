import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shard_factory import HEAD, VIEW, write_small_shards

from usfm.data.fractions import label_fraction
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task
from usfm.errors import CheckpointError, ConfigError, DataError
from usfm.metrics.classification import balanced_accuracy, confusion
from usfm.metrics.segmentation import dice
from usfm.models.bundle import load_bundle, read_bundle_spec
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.finetune_loss import TaskLoss
from usfm.train.journal import read_journal

ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}


def config_of(shards: Path, run_dir: Path, task: dict, **values) -> FinetuneConfig:
    base = {"shards": str(shards), "run_dir": str(run_dir), "task": {**task, "canvas_px": 64}, "encoder": ENCODER,
            "steps": 12, "batch_size": 8, "eval_every": 4, "optim": {"lr": 1e-3, "base_batch": 8}}  # fmt: skip
    return FinetuneConfig.build(base | values)


groups_and_strata = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=120)


@given(groups_and_strata, st.integers(0, 5), st.floats(0.01, 1), st.floats(0.01, 1))
def test_fractions_are_nested_and_never_cut_a_patient(pairs, seed, a, b) -> None:
    groups, strata = [f"p{g}" for g, _ in pairs], [f"c{s}" for _, s in pairs]
    small, large = (label_fraction(groups, strata, f, seed) for f in sorted((a, b)))
    assert not (small & ~large).any()
    for chosen in (small, large):
        inside = {g for g, c in zip(groups, chosen, strict=True) if c}
        assert inside.isdisjoint({g for g, c in zip(groups, chosen, strict=True) if not c})
    assert label_fraction(groups, strata, 1.0, seed).all()


def test_fractions_are_stratified() -> None:
    groups, strata = [f"p{k}" for k in range(200)], ["rare" if k < 20 else "common" for k in range(200)]
    chosen = label_fraction(groups, strata, 0.05, seed=0)
    assert chosen[:20].sum() == 1
    assert chosen[20:].sum() == 9
    assert (label_fraction(groups, strata, 0.05, seed=1) != chosen).any()


@given(
    rows=st.lists(st.tuples(st.integers(0, 14), st.sampled_from("abcd")), min_size=1, max_size=60),
    a=st.floats(0.01, 1), b=st.floats(0.01, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_fraction_has_every_class_and_is_what_it_was_where_it_had(rows, a: float, b: float, seed: int) -> None:
    groups, labels = [f"g{g}" for g, _ in rows], [label for _, label in rows]
    shown = [["abcd".index(label)] for label in labels]
    small, large = (label_fraction(groups, labels, f, seed, shown) for f in sorted((a, b)))
    plain = label_fraction(groups, labels, min(a, b), seed)
    assert {label for label, on in zip(labels, small, strict=True) if on} == set(labels)
    assert not (small & ~large).any(), "nested"
    assert not {g for g, on in zip(groups, small, strict=True) if on} & {
        g for g, on in zip(groups, small, strict=True) if not on
    }, "whole patients"
    assert not (plain & ~small).any(), "it only grows"
    counted = {g: Counter(label for of, label in zip(groups, labels, strict=True) if of == g) for g in groups}
    majorities = {min(votes, key=lambda s: (-votes[s], s)) for votes in counted.values()}
    if majorities == set(labels):
        assert (small == plain).all()
    assert small.sum() - plain.sum() <= sum(
        max(labels_of.total() for labels_of in counted.values()) for _ in set(labels) - majorities
    )


def test_a_class_that_is_nowhere_the_most_frequent_one_comes_with_its_first_patient() -> None:
    groups = [f"p{n // 4}" for n in range(400)]
    labels = ["rare" if n in (42, 243) else "common" for n in range(400)]
    shown = [[int(label == "rare")] for label in labels]
    assert "rare" not in {
        label for label, on in zip(labels, label_fraction(groups, labels, 0.01, 0), strict=True) if on
    }
    chosen = label_fraction(groups, labels, 0.01, 0, shown)
    assert sorted({g for g, on in zip(groups, chosen, strict=True) if on})[-1] in ("p10", "p60")
    assert chosen.sum() == 8


def test_tasks_read_labels_and_masks(small_shards: Path) -> None:
    heads = load_task(str(small_shards), TaskConfig.build({**HEAD, "canvas_px": 64}))
    assert {split: len(data) for split, data in heads.items()} == {"train": 24, "val": 6, "test": 6}
    train = heads["train"]
    assert set(np.unique(train.mask)) == {0, 1}
    assert train.image[train.mask == 1].mean() > train.image[train.mask == 0].mean() + 80
    views = load_task(str(small_shards), TaskConfig.build({**VIEW, "canvas_px": 64}))["train"]
    assert views.label.tolist() == [1 - n % 2 for n in sorted(range(40))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"bright": ["a"], "odd": ["zzz"]}}, "class 'odd' has no training rows"),
        ({"organs": ["kidney"]}, "no train rows with"),
    ],
)
def test_a_task_without_rows_is_refused(small_shards: Path, change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(str(small_shards), TaskConfig.build({**VIEW, "canvas_px": 64, "unlisted": "leave_out", **change}))


def test_one_class_is_no_classification() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes"):
        TaskConfig.build({**VIEW, "classes": {"bright": ["a"]}})


@pytest.mark.parametrize(("task", "least"), [(HEAD, 0.75), (VIEW, 0.95)])
def test_finetuning_learns_and_reports(small_shards: Path, tmp_path: Path, task: dict, least: float) -> None:
    context = PlainContext()
    optim = {"lr": 2e-3, "base_batch": 8}
    result = finetune(config_of(small_shards, tmp_path, task, steps=60, eval_every=20, optim=optim), context)
    assert result["value"] > least
    assert [row["step"] for row in context.reports] == [20, 40, 60]
    assert result["val_value"] == max(row["val_value"] for row in context.reports)
    evaluation = json.loads((tmp_path / "best" / "evaluation.json").read_text())
    assert evaluation["value"] == result["value"]
    assert len(evaluation["per_item"]) == (6 if task is HEAD else 8)
    _, spec = load_bundle(tmp_path / "best")
    assert spec.licences == ["CC0-1.0"]
    assert spec.trained_on == {"made": result["train_items"]}


def test_a_run_is_repeatable(small_shards: Path, tmp_path: Path) -> None:
    reports = []
    for name in "ab":
        context = PlainContext()
        finetune(config_of(small_shards, tmp_path / name, VIEW, fraction=0.2, seed=3), context)
        reports.append(context.reports)
    assert reports[0] == reports[1]


def test_a_bundle_names_the_shards_that_its_run_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is ingested into their folder while it trains."""
    shards = write_small_shards(tmp_path / "shards")
    index = shards / "index.json"

    def ingested_anew(*arguments) -> TaskLoss:
        index.write_text(json.dumps(json.loads(index.read_text()) | {"fingerprint": "others"}))
        return TaskLoss(*arguments)

    monkeypatch.setattr("usfm.train.finetune.TaskLoss", ingested_anew)
    for name, split_by in (("folds", {"split_by": "folds", "folds": 3, "fold": 1}), ("split", {})):
        write_small_shards(shards)
        config = config_of(shards, tmp_path / name, {**VIEW, **split_by}, steps=2)
        result = finetune(config, PlainContext())
        metrics = read_bundle_spec(tmp_path / name / "best").metrics
        assert metrics["shards_fingerprint"] == result["inputs"]["shards"] == "made"
        assert (metrics["split_by"], metrics["labels_before"]) == (name, False)
        assert {"fold", "dealt"} <= set(metrics) if split_by else not {"fold", "dealt"} & set(metrics)


def test_a_frozen_encoder_drops_no_path(small_shards: Path, tmp_path: Path) -> None:
    losses = []
    for drop_path in (0.0, 0.5):
        config = config_of(small_shards, tmp_path / str(drop_path), VIEW, freeze_encoder=True, steps=3,
                           encoder={**ENCODER, "drop_path": drop_path})  # fmt: skip
        finetune(config, PlainContext())
        losses.append([row["train_loss"] for row in read_journal(tmp_path / str(drop_path))])
    assert losses[0] == losses[1]


def test_a_frozen_encoder_stays_as_it_was(small_shards: Path, tmp_path: Path) -> None:
    first = finetune(config_of(small_shards, tmp_path / "a", VIEW, freeze_encoder=True, steps=1), PlainContext())
    second = finetune(config_of(small_shards, tmp_path / "b", VIEW, freeze_encoder=True, steps=9), PlainContext())
    one, two = (load_bundle(Path(r["bundle"]))[0].state_dict() for r in (first, second))
    assert all(torch.equal(one[k], two[k]) for k in one if k.startswith("encoder."))
    assert any(not torch.equal(one[k], two[k]) for k in one if k.startswith("head."))


def test_a_wrong_start_is_refused(small_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init=scratch needs the encoder"):
        finetune(config_of(small_shards, tmp_path, VIEW, encoder=None), PlainContext())
    with pytest.raises(CheckpointError, match="neither a pre-training run nor an exported model"):
        finetune(config_of(small_shards, tmp_path, VIEW, init=str(tmp_path)), PlainContext())


def test_an_operation_without_a_deterministic_algorithm_is_said_with_a_way_out_that_there_is(
    small_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: TaskLoss, answer: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("histc does not have a deterministic implementation")

    monkeypatch.setattr(TaskLoss, "__call__", loss)
    with pytest.raises(ConfigError, match=r"histc .* on a GPU") as told:
        finetune(config_of(small_shards, tmp_path, VIEW), PlainContext(torch.device("cpu")))
    assert "speed." not in str(told.value)  # a key of pre-training


def test_scores_by_hand() -> None:
    truth, drawn = np.zeros((4, 4), int), np.zeros((4, 4), int)
    truth[:2, :2], drawn[0, :3] = 1, 1  # 4 and 3 pixels, 2 shared
    assert dice(drawn, truth, 2) == pytest.approx(4 / 7)
    drawn[3, 3] = 2
    assert dice(drawn, truth, 3) == pytest.approx((4 / 7 + 0) / 2)
    assert dice(np.zeros((2, 2), int), np.zeros((2, 2), int), 2) == 1.0
    labels, guessed = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 2])
    assert balanced_accuracy(guessed, labels) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert balanced_accuracy(np.array([2, 0]), np.array([0, 0])) == pytest.approx(0.5)
    assert confusion(guessed, labels, 3) == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
