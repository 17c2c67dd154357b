"""What the demo asks of the service that it started."""

from pathlib import Path

import pytest
from shard_factory import HEAD as LABELLED
from shard_factory import row, write_rows

from ray_jobs.demo import _question, _unseen
from usfm.data.task_config import TaskConfig
from usfm.data.tasks import load_task

HEAD = TaskConfig.build({"name": "head", "kind": "segmentation", "organs": ["x"], "classes": {"head": ["*"]}})
VIEW = TaskConfig.build(
    {"name": "view", "kind": "classification", "organs": ["x"], "classes": {"a": ["a"], "b": ["b"]}}
)
SIZE = TaskConfig.build(
    {"name": "size", "kind": "regression", "organs": ["x"], "target": "mask_area", "unit": "px2"}
)
BETTER = TaskConfig.build({"name": "better", "kind": "enhancement", "organs": ["x"], "degrade": {}})


@pytest.mark.parametrize(
    ("tasks", "served", "task", "verb", "parameters"),
    [
        ([VIEW, HEAD], {"encoder", "head", "view"}, HEAD, "segment", {"model": "head", "overlay": "true"}),
        ([HEAD, VIEW], {"encoder", "view"}, VIEW, "classify", {"model": "view"}),  # no trial of `head` ended
        ([SIZE], {"size"}, SIZE, "regress", {"model": "size"}),
        ([BETTER], {"better"}, BETTER, "enhance", {"model": "better"}),
    ],
)
def test_a_segmentation_is_asked_first_and_only_what_is_served(tasks, served, task, verb, parameters) -> None:
    assert _question(tasks, served) == (task, verb, parameters)


def test_the_image_that_is_sent_is_of_the_tested_fold(small_shards: Path) -> None:
    task = TaskConfig.build({**LABELLED, "canvas_px": 64, "split_by": "folds", "folds": 3, "fold": 2})
    name, body, shown = _unseen(str(small_shards), task, small_shards)
    first = load_task(str(small_shards), task)["test"].ids[0]
    assert first.rsplit("#", 1)[0].endswith(name)
    assert body == shown


def test_the_image_that_is_sent_may_be_of_any_split_of_a_source_that_is_tested(tmp_path: Path) -> None:
    here = [
        row("fetal_head", split, n)
        for split, count in (("train", 4), ("val", 2), ("test", 2))
        for n in range(count)
    ]
    there = [
        one | {"source": "elsewhere", "id": one["id"].replace("made", "elsewhere")}
        for one in here
        if one["split"] == "train"
    ]
    shards = write_rows(tmp_path, here + there)
    task = TaskConfig.build({
        **LABELLED, "canvas_px": 64, "split_by": "source", "train_sources": ["made"], "test_sources": ["elsewhere"],
    })  # fmt: skip
    name, body, shown = _unseen(str(shards), task, shards)
    assert name.startswith("fetal_head/train_00")
    assert body == shown
