"""Rows for probes: patients apart, many patients before many frames, and results that can be compared."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_factory import HEAD, ROWS, VIEW, row, write_rows

from usfm.data.probe_rows import ORGAN, choose_rows
from usfm.data.probe_set import ProbeSet, check_tasks, load_probe_set
from usfm.data.task_config import TaskConfig
from usfm.errors import ConfigError, DataError, ShardError
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.train.observe.config import ProbeConfig
from usfm.train.observe.features import Features, extract
from usfm.train.observe.probing import ProbeResult, probe

TASKS = [TaskConfig.build(HEAD), TaskConfig.build(VIEW)]


def load(shards: Path, protocol: str = "split", limit: int = 100) -> ProbeSet:
    return load_probe_set(str(shards), TASKS, True, protocol, limit, 64)


def oracle_features(rows: ProbeSet) -> Features:
    """Features that know the answer: the mean brightness, and each token's own."""
    bright = rows.image.astype(np.float32).sum(axis=(1, 2)) / (rows.height * rows.width)
    pooled = np.stack([bright / 100, np.ones(len(rows))], axis=1).astype(np.float32)
    tokens = {}
    for task in rows.tasks:
        for n in task.rows if task.kind == "segmentation" else []:
            image = rows.image[n, : rows.height[n], : rows.width[n]].astype(np.float32)
            cells = [[c.mean() for c in np.array_split(r, 8, axis=1)] for r in np.array_split(image, 8)]
            tokens[int(n)] = np.array(cells, np.float32)[..., None]
    return Features(pooled, tokens)


def made(shards: Path, protocol: str = "split", **values) -> dict[str, ProbeResult]:
    rows = load(shards, protocol)
    config = ProbeConfig.build({"bootstrap": 100, "neighbours": 5, **values})
    return {result.task.name: result for result in probe(rows, oracle_features(rows), config, 0)}


def test_the_split_protocol_scores_val_and_test_alone(small_shards: Path) -> None:
    rows = load(small_shards)
    assert [task.name for task in rows.tasks] == ["head", "view", ORGAN]
    result = made(small_shards)["view"]
    assert len(result.ids) == ROWS["heart"]["val"] + ROWS["heart"]["test"]
    assert all("/val_" in name or "/test_" in name for name in result.ids)
    assert result.fitted == ROWS["heart"]["train"]
    assert result.scores["linear_balanced_accuracy"].value == 1  # brightness is the class
    assert result.scores["knn_macro_f1"].value > 0.5


def test_folds_score_every_row_once_by_fits_on_other_patients(
    small_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usfm.train.observe import probing

    asked = []
    honest = probing._classify

    def spy(task, features, fit, out, groups, *rest):
        assert not {groups[n] for n in fit} & {groups[n] for n in out}
        asked.append((task.name, len(out)))
        return honest(task, features, fit, out, groups, *rest)

    monkeypatch.setattr(probing, "_classify", spy)
    result = made(small_shards, "folds", folds=4)["view"]
    assert result.ids == sorted(result.ids)
    assert len(result.ids) == sum(ROWS["heart"].values()) == len(set(result.ids))
    assert [name for name, _ in asked].count("view") == 4
    assert result.scores["linear_balanced_accuracy"].value == 1


def test_the_answer_follows_its_row_through_the_folds(small_shards: Path) -> None:
    result = made(small_shards, "folds")["view"]
    number = {name: int(name.rpartition("_")[2].split(".")[0]) for name in result.ids}
    truth = [0 if number[name] % 2 else 1 for name in result.ids]  # odd rows are bright, see shard_factory
    assert result.truth.tolist() == truth
    assert result.items["linear"].tolist() == truth


def test_tokens_that_know_the_mask_draw_it(small_shards: Path) -> None:
    result = made(small_shards)["head"]
    assert len(result.ids) == 12
    assert result.scores["linear_dice"].value > 0.7
    assert result.scores["linear_iou"].value < result.scores["linear_dice"].value
    assert result.scores["linear_dice"].value == pytest.approx(result.items["linear_dice"].mean())


def test_results_are_a_function_of_their_inputs(small_shards: Path) -> None:
    for protocol in ("split", "folds"):
        first, second = made(small_shards, protocol), made(small_shards, protocol)
        assert [r.scores for r in first.values()] == [r.scores for r in second.values()]
        for name in first:
            assert all(np.array_equal(first[name].items[k], second[name].items[k]) for k in first[name].items)


def test_many_patients_come_before_many_frames() -> None:
    groups = ["clip"] * 50 + [f"p{n}" for n in range(9)]
    ids = [f"row{n}" for n in range(59)]
    taken = choose_rows(groups, ids, 10)
    assert {groups[n] for n in taken} == set(groups)  # one of each before the clip's second
    assert sum(groups[n] == "clip" for n in choose_rows(groups, ids, 12)) == 3
    back = choose_rows(groups[::-1], ids[::-1], 10)
    assert {ids[::-1][n] for n in back} == {ids[n] for n in taken}  # by the rows, not by their order


def test_rows_per_class_limits_both_parts(small_shards: Path) -> None:
    view = next(task for task in load(small_shards, limit=3).tasks if task.name == "view")
    assert np.bincount(view.labels).tolist() == [6, 6]  # three to fit and three to score of each class


def test_a_class_without_held_out_rows_takes_folds_and_an_organ_is_left_out(tmp_path: Path) -> None:
    rows = [row("heart", "train", n) for n in range(12)] + [row("kidney", "train", n) for n in range(4)]
    rows += [row("heart", "val", n) for n in (0, 2)] + [
        row("fetal_head", s, n) for s in ("train", "val") for n in (0, 2)
    ]
    made = {task.name: task for task in load(write_rows(tmp_path, rows)).tasks}
    assert made["view"].protocol == "folds"  # no bright heart is held out
    assert (made[ORGAN].protocol, made[ORGAN].classes) == ("split", ["fetal_head", "heart"])
    assert made[ORGAN].left_out == {"kidney": "no held-out rows"}


def test_rows_of_unknown_patients_are_one_patient(tmp_path: Path) -> None:
    rows = [row("heart", "train", n) | {"group": ""} for n in range(8)]
    with pytest.raises(ConfigError, match="come from 1 known patients, at least 2"):
        load_probe_set(str(write_rows(tmp_path, rows)), [TaskConfig.build(VIEW)], False, "folds", 50, 64)


def test_the_name_organ_is_taken(small_shards: Path) -> None:
    with pytest.raises(ConfigError, match="exists by itself"):
        load_probe_set(str(small_shards), [TaskConfig.build(VIEW | {"name": "organ"})], True, "split", 9, 64)


def test_tasks_are_checked_by_their_labels_alone(small_shards: Path, tmp_path: Path) -> None:
    check_tasks(str(small_shards), TASKS)
    check_tasks(str(tmp_path / "nothing there"), [])  # nothing is asked, nothing is read
    misspelt = TaskConfig.build(HEAD | {"classes": {"head": ["fetal haed"]}})
    with pytest.raises(ConfigError, match=r"class 'head' is made of \['fetal haed'\], but the masks .* spelling"):
        check_tasks(str(small_shards), [misspelt])
    with pytest.raises(ConfigError, match="class 'dark' come from 0 known patients"):
        check_tasks(str(small_shards), [TaskConfig.build(VIEW | {"classes": {"bright": ["a"], "dark": ["bb"]}})])
    clean = TaskConfig.build({"name": "clean", "kind": "enhancement", "organs": ["heart"], "degrade": {}})
    with pytest.raises(ConfigError, match="probe task clean is of kind enhancement"):
        check_tasks(str(small_shards), [clean])


def test_a_label_of_no_class_is_refused_with_its_row_or_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row("heart", split, n) for split in ("train", "val") for n in range(8)]
    rows += [row("heart", "train", n) | {"label": label} for n, label in ((20, "a "), (21, ""), (22, ""))]
    rows += [row("heart", "train", 23) | {"source": "elsewhere", "label": "other"}]
    shards = str(write_rows(tmp_path, rows))
    here = VIEW | {"sources": ["made"]}
    said = (
        "probe task view: row made/heart/train_020.png#0 says 'a ': label 'a ' is of no class; expected a label "
        "that a class lists (bright: 'a'; dark: 'b'). Mend it and ingest again, list it under a class, name the "
        "`sources` that are meant, or give the task `unlisted: leave_out`"
    )
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        check_tasks(shards, [TaskConfig.build(here)])
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        load_probe_set(shards, [TaskConfig.build(here)], True, "split", 9, 64)
    refused, tasks = [], [TaskConfig.build(here), TaskConfig.build(VIEW | {"name": "b", "unlisted": "leave_out"})]
    (kept,) = load_probe_set(shards, tasks, False, "split", 9, 64, refused=refused.append).tasks
    assert (kept.name, [str(error) for error in refused]) == ("b", [said])  # one task is left out, not all
    lenient = TaskConfig.build(here | {"unlisted": "leave_out"})
    counts = {"label '' is of no class": 2, "label 'a ' is of no class": 1}
    assert check_tasks(shards, [lenient]) == {"view": counts}
    (task,) = load_probe_set(shards, [lenient], False, "split", 9, 64).tasks
    assert (task.unlisted, len(task.rows)) == (counts, 16)


def test_a_mask_class_of_no_class_is_refused_with_its_row_or_background(tmp_path: Path) -> None:
    rows = [row("fetal_head", split, n) for split in ("train", "val") for n in range(4)]
    rows[2]["mask_classes"] = '{"1": "cyst"}'
    shards, asked = str(write_rows(tmp_path, rows)), HEAD | {"classes": {"head": ["head"]}}
    said = "^probe task head: row made/fetal_head/train_002.png#0: its mask has 'cyst', which no class names; exp"
    with pytest.raises(DataError, match=said):
        check_tasks(shards, [TaskConfig.build(asked)])
    lenient = TaskConfig.build(asked | {"unlisted": "leave_out"})
    (task,) = load_probe_set(shards, [lenient], False, "split", 9, 64).tasks
    assert task.unlisted == {"its mask has 'cyst', which no class names": 1}
    assert [bool(mask.any()) for mask in task.masks] == [r is not rows[2] for r in rows]
    assert check_tasks(shards, [TaskConfig.build(HEAD)]) == {}


def test_a_task_whose_shards_cannot_be_read_is_no_wrong_task(tmp_path: Path) -> None:
    rows = [row("heart", split, n) for split in ("train", "val") for n in range(8)]
    root = write_rows(tmp_path, rows)
    check_tasks(str(root), [TaskConfig.build(VIEW)])
    for split in ("train", "val"):
        (root / split / "heart" / "0.arrow").write_bytes(b"damaged")
    with pytest.raises(ShardError, match=r"0 known patients.*could not be read: train/heart/0.arrow, val/heart/0"):
        check_tasks(str(root), [TaskConfig.build(VIEW)])


def test_features_are_those_of_the_encoder_one_by_one(small_shards: Path) -> None:
    from usfm.data.augment import whole_images

    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(size="nano", img_px=32, patch_px=8, drop_path=0.5)).train()
    rows = load(small_shards)
    features = extract(encoder, rows, torch.device("cpu"))
    assert encoder.training
    encoder.eval()
    masked = next(task for task in rows.tasks if task.name == "head")
    assert set(features.tokens) == set(masked.rows.tolist())
    for n in (0, int(masked.rows[3]), len(rows) - 1):
        one = [torch.tensor([int(x[n])]) for x in (rows.height, rows.width)]
        tokens = encoder(whole_images(torch.from_numpy(rows.image[n : n + 1]), *one, 32))[0, 1:].detach().numpy()
        assert np.allclose(features.pooled[n], tokens.mean(axis=0), atol=1e-5)
        if n in features.tokens:
            assert np.allclose(features.tokens[n], tokens.reshape(4, 4, -1), atol=1e-5)
