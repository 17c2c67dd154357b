"""One trial of a sweep in its own process: a fine-tuning run, alone or over Ray Train."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_jobs.sweep_config import Study
from usfm.errors import ConfigError, DataError, NonFiniteAnswer, NonFiniteLoss, ShardError
from usfm.train.cached_views import CachedViews
from usfm.train.context import PlainContext, best_device
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import open_run

__all__ = ["IN_VAIN", "SCORE", "run_planned", "run_searched"]

SCORE = "best_val_value"
IN_VAIN = "in_vain"
"""Key of a trial's last report where another attempt would fail as this one did."""
SAME_AGAIN = (ConfigError, DataError, NonFiniteLoss, NonFiniteAnswer)
"""Errors that the same settings, rows and draws give again."""


def run_planned(values: dict[str, Any], placement: Mapping[str, Any]) -> None:
    """A Tune trial that was planned before the sweep began."""
    _run(FinetuneConfig.build(values["trial"]["config"]), placement, values["trial"]["features"])


def run_searched(
    values: dict[str, Any], study: Study, at: tuple[float, int], placement: Mapping[str, Any], features: str
) -> None:
    """A Tune trial whose values a search algorithm has chosen."""
    _run(study.trial(*at, values).config, placement, features)


def _run(config: FinetuneConfig, placement: Mapping[str, Any], features: str) -> None:
    from ray import tune

    try:
        _finetune(config, placement, features)
    except SAME_AGAIN as error:
        if not isinstance(error, ShardError):  # shards that are missing may be back at the next attempt
            # Tune reads the report before it learns of the error. A scheduler has no rung at step 0, and no score
            # is made up for it or for a search
            tune.report({"step": 0, SCORE: math.nan, IN_VAIN: 1})
        raise


def _finetune(config: FinetuneConfig, placement: Mapping[str, Any], features: str) -> None:
    from ray import tune

    open_run(Path(config.run_dir), config, placement, may_change=("run_dir",))
    if placement["workers_per_trial"]:
        from ray.tune.integration.ray_train import TuneReportCallback

        from ray_jobs.finetune import fit

        cpus, gpus = placement["cpus_per_trial"], placement["gpus_per_trial"]
        fit(config, placement["workers_per_trial"], cpus, gpus, [TuneReportCallback()])
        return
    import torch

    torch.set_num_threads(max(1, int(placement["cpus_per_trial"])))
    context = PlainContext(device=best_device() if placement["gpus_per_trial"] else torch.device("cpu"))
    context.report = lambda metrics, *_: tune.report(dict(metrics))  # type: ignore[method-assign]
    finetune(config, context, CachedViews(config, context, Path(features)) if features else None)
