"""Folds of patients: who is tested when, and by whom never seen."""

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from shard_factory import HEAD, VIEW, row, write_rows

from usfm.data import tasks
from usfm.data.folds import NO_FOLD, deal, dealt_digest, group_folds
from usfm.data.fractions import fraction_rows, label_fraction, strata
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import dealing, load_folds, load_split, load_task
from usfm.errors import ConfigError, DataError


def task_of(base: dict, **values) -> TaskConfig:
    return TaskConfig.build({**base, "canvas_px": 64, "split_by": "folds", **values})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hearts of all three splits; the last four of the training split are of unknown patients."""
    rows = [
        row("heart", split, n) for split, count in (("train", 24), ("val", 6), ("test", 8)) for n in range(count)
    ]
    for n in range(20, 24):
        rows[n]["group"] = ""
    return str(write_rows(tmp_path_factory.mktemp("folds"), rows))


def test_folds_never_cut_a_patient_and_hold_every_row_once() -> None:
    y = np.tile([0, 1, 1], 40)
    groups = [f"p{n // 4}" for n in range(120)]
    folds = group_folds(y, groups, 5, seed=1)
    assert set(folds.tolist()) == set(range(5))
    for group in set(groups):
        assert len({f for f, g in zip(folds.tolist(), groups, strict=True) if g == group}) == 1
    assert np.array_equal(folds, group_folds(y, groups, 5, seed=1))


def test_strata_are_spread_evenly_and_the_order_of_rows_changes_nothing() -> None:
    patients = [f"p{n // 2:02d}" for n in range(80)] + ["", ""]
    of = ["rare" if n < 2 else "ab"[n // 2 % 2] for n in range(80)] + ["a", "b"]
    number = deal(patients, of, 4, "made")
    assert number[-2:].tolist() == [NO_FOLD, NO_FOLD]
    for fold in range(4):
        counts = Counter(stratum for stratum, f in zip(of, number, strict=True) if f == fold)
        assert all(8 <= counts[name] <= 12 for name in "ab")
    order = np.random.default_rng(0).permutation(len(patients))
    again = deal([patients[n] for n in order], [of[n] for n in order], 4, "made")
    assert np.array_equal(again, number[order])


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(DataError, match=r"made: 2 known patients cannot be dealt into 3 folds; add patients"):
        deal(["p", "q", "q", ""], ["a"] * 4, 3, "made")
    # strata too rare for every fold are no reason to fail
    assert sorted(deal(["p", "q", "r"], ["a", "b", "c"], 3, "made").tolist()) == [0, 1, 2]


def test_the_digest_of_folds_knows_their_rows_and_not_their_order() -> None:
    ids, number = ["b", "a", "c"], np.array([1, 0, NO_FOLD])
    digest = dealt_digest(ids, number)
    assert digest == hashlib.blake2b(b"a\t0\nb\t1\n", digest_size=6).hexdigest()
    assert len(digest) == 12
    assert digest == dealt_digest(["c", "a", "b"], number[[2, 1, 0]])
    assert digest == dealt_digest(["a", "b", "d", "e"], np.array([0, 1, NO_FOLD, NO_FOLD])), "they always train"
    for other in (([1, 1, NO_FOLD], ids), ([1, 0, 0], ids), ([1, 0, NO_FOLD], ["b", "d", "c"])):
        assert dealt_digest(other[1], np.array(other[0])) != digest


def test_the_folds_of_a_task_test_every_known_patient_once(shards: str) -> None:
    tested: Counter[str] = Counter()
    for fold in range(5):
        sets = load_task(shards, task_of(VIEW, fold=fold))
        groups = {name: set(data.groups) for name, data in sets.items()}
        assert not groups["test"] & (groups["val"] | groups["train"])
        assert not groups["val"] & groups["train"]
        assert sum(map(len, sets.values())) == 38
        unknown = [name for data in (sets["val"], sets["test"]) for name in data.groups if name in data.ids]
        assert unknown == []
        assert sum(name in sets["train"].groups for name in sets["train"].ids) == 4
        assert groups["val"] == set(load_task(shards, task_of(VIEW, fold=(fold + 1) % 5))["test"].groups)
        tested.update(sets["test"].ids)
    assert set(tested.values()) == {1}
    assert len(tested) == 34
    every, rows = load_folds(shards, task_of(VIEW, fold=2))
    test = load_task(shards, task_of(VIEW, fold=2))["test"]
    assert [every.ids[n] for n in rows["test"]] == test.ids == load_split(shards, task_of(VIEW, fold=2), "test").ids
    assert np.array_equal(every.image[rows["test"]], test.image)
    assert set(every.splits) == {"train", "val", "test"}
    assert len(load_split(shards, task_of(VIEW), "all")) == 38


def test_rows_are_decoded_once_for_all_folds(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], tasks._decode

    def counted(chosen, task, left_out):
        decoded.append(len(chosen))
        return decode(chosen, task, left_out)

    monkeypatch.setattr(tasks, "_decode", counted)
    dealt = set()
    for number in range(10):
        load_task(shards, task_of(VIEW, name="counted", fold=number % 5))
        dealt.add(dealing(shards, task_of(VIEW, name="counted", fold=number % 5)))
    assert decoded == [38]
    assert len(dealt) == 1


def test_label_fractions_of_a_fold_are_nested_whole_patients_that_show_every_class(tmp_path: Path) -> None:
    """Twenty patients of three images; the third class is one image of five patients, so nobody's most frequent."""
    rows = [row("heart", "train", n) for n in range(60)]
    for n in range(60):
        patient = n // 3
        rows[n] |= {"group": f"p{patient}", "label": "c" if n % 12 == 2 else "ab"[patient % 2]}
    rows += [{**row("heart", "train", n), "group": "", "label": "a"} for n in range(60, 64)]
    shards = str(write_rows(tmp_path, rows))
    classes, lacking = {"one": ["a"], "two": ["b"], "three": ["c"]}, 0
    for fold in range(5):
        task = task_of(VIEW, classes=classes, fold=fold)
        train = load_task(shards, task)["train"]
        taken = [set(fraction_rows(train, task, f, seed=fold).tolist()) for f in (0.05, 0.1, 0.3, 0.6, 1.0)]
        assert all(small <= large for small, large in pairwise(taken))
        assert taken[-1] == set(range(len(train)))
        assert len(taken[0]) <= 9, "a patient of each class and no more"
        for inside in taken:
            assert set(train.label[sorted(inside)].tolist()) == {0, 1, 2}
            outside = {train.groups[n] for n in set(range(len(train))) - inside}
            assert outside.isdisjoint(train.groups[n] for n in inside)
        plain = label_fraction(train.groups, strata(train, task), 0.05, seed=fold)
        lacking += 2 not in train.label[plain]
    assert lacking, "else the classes were there by chance"


def test_a_class_that_a_fold_cannot_learn_is_said(tmp_path: Path) -> None:
    rows = [{**row("heart", "train", n), "label": "a" if n < 2 else "b"} for n in range(20)]
    shards = str(write_rows(tmp_path, rows))
    tested = next(f for f in range(5) if 0 in load_folds(shards, task_of(VIEW, fold=f))[1]["test"])
    with pytest.raises(DataError, match=rf"class 'bright' has no training rows in .* \(fold {tested} of 5\)"):
        load_task(shards, task_of(VIEW, fold=tested))
    with pytest.raises(DataError, match="10 known patients cannot be dealt into 11 folds"):
        load_task(shards, task_of(VIEW, folds=11))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"fold": 5}, "fold 5 is none of 5 folds; they are 0 to 4"),
        ({"folds": 2}, "greater than or equal to 3"),
        ({"split_by": "split", "fold": 1}, "fold 1 and folds 5 are for split_by=folds"),
        ({"split_by": "split", "folds": 4}, "fold 0 and folds 4 are for split_by=folds"),
        ({"train_sources": ["a"]}, "are for split_by=source"),
    ],
)
def test_folds_that_do_not_fit_are_refused(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        task_of(HEAD, **values)


def test_a_seed_says_which_fold_is_tested() -> None:
    assert [task_of(VIEW, folds=3).of_seed(seed).fold for seed in (0, 4, 5)] == [0, 1, 2]
    assert task_of(VIEW, split_by="split").of_seed(4).fold == 0
