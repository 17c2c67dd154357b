"""The layers of a sweep's config: who says more, for the trials and for their report alike."""

from pathlib import Path

import pandas as pd
import pytest
from shard_factory import VIEW

from ray_jobs.sweep_config import SweepConfig, studies
from usfm.report.downstream.tables import SweepTables
from usfm.train.sweep_values import shared_values

FIRST = {"finetune": {"init": "shared", "steps": 1, "optim": {"lr": 0.5, "warmup": 0.25}}, "inits": {"a": {}}}
SECOND = {**FIRST, "per_task": {"view": {"init": "of task", "steps": 2, "optim": {"lr": 0.4}}}}
THIRD = {**SECOND, "inits": {"a": {"init": "own", "steps": 3, "tasks": ["view"], "fractions": [1.0]}}}
FOURTH = {**THIRD, "tuned": {"view": {"a": {"init": "tuned", "steps": 4}}}}


@pytest.mark.parametrize(
    ("layers", "init", "steps", "rate"),
    [(FIRST, "shared", 1, 0.5), (SECOND, "of task", 2, 0.4), (THIRD, "own", 3, 0.4), (FOURTH, "tuned", 4, 0.4)],
)
def test_a_later_layer_says_more(layers: dict, init: str, steps: int, rate: float) -> None:
    values = {"init": init, "steps": steps, "optim": {"lr": rate, "warmup": 0.25}}
    assert shared_values(layers, "view", "a") == values
    asked = SweepConfig.build({"tasks": [{**VIEW, "canvas_px": 64}], **layers})
    assert {**values, "shards": asked.shards} == studies(asked)[0].values
    tables = SweepTables(Path(), asked.model_dump(mode="json"), {}, pd.DataFrame(), pd.DataFrame())
    assert tables.start("view", "a") == init


def test_what_no_layer_says_is_left_to_the_defaults() -> None:
    other = {"tuned": {"other": {"a": {"steps": 9}}}, "per_task": {"other": {"steps": 8}}}
    assert shared_values({"inits": {"a": "scratch", "b": {}}, **other}, "view", "a") == {"init": "scratch"}
    tables = SweepTables(Path(), {"inits": {"b": {}}}, {}, pd.DataFrame(), pd.DataFrame())
    assert tables.start("view", "b") == "scratch"
