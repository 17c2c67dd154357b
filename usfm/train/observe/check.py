"""What a driver checks of the observations before it starts workers."""

from pathlib import Path

from usfm.data.left_out import left_out_line
from usfm.data.location import absolute
from usfm.data.probe_set import check_tasks
from usfm.errors import DataError
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.observe.config import ObserveConfig
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["check_observing", "for_workers", "without_task"]


def check_observing(config: PretrainConfig) -> list[str]:
    """Can the probes' tasks be scored? Reads labels, no images, and nothing at all where no task is asked for.

    A run that has a checkpoint goes on without a task that refuses a row.

    Returns:
        what to say: the tasks that the run goes on without, and what others leave out.

    Raises:
        ConfigError: a task cannot be scored on its shards, for example because a class is misspelt.
        DataError: a task of a new run refuses a row whose label no class names; the row is named.
        ShardError: the probes' shards are not there, or a task lacks rows while some of them cannot be read.
    """
    asked = config.observe.probe
    if config.observe.every == 0 or asked is None or not asked.tasks:
        return []
    refused: list[DataError] = []
    goes_on = latest_checkpoint(Path(config.run_dir)) is not None
    shards = asked.shards or config.data.shards
    counts = check_tasks(shards, asked.tasks, config.data.cache, refused.append if goes_on else None)
    left = [left_out_line(name, {"all": unlisted}, "probe task") for name, unlisted in counts.items()]
    return [*map(without_task, refused), *left]


def without_task(error: DataError) -> str:
    """What to say of a probe task that refuses a row while its run goes on."""
    return f"{error}. The run goes on without this probe task, and its feature rank without the task's rows"


def for_workers(observe: ObserveConfig) -> ObserveConfig:
    """The same for processes with another working directory."""
    if observe.probe is None or observe.probe.shards is None:
        return observe
    probe = observe.probe.model_copy(update={"shards": absolute(observe.probe.shards)})
    return observe.model_copy(update={"probe": probe})
