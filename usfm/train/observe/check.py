"""What a driver checks of the observations before it starts workers."""

from usfm.data.location import absolute
from usfm.data.probe_rows import check_tasks
from usfm.train.observe.config import ObserveConfig
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["check_observing", "for_workers"]


def check_observing(config: PretrainConfig) -> dict[str, dict[str, int]]:
    """Can the probes' tasks be scored? Reads labels, no images, and nothing at all where no task is asked for.

    Returns:
        task -> reason -> how many rows it leaves out because no class names their label.

    Raises:
        ConfigError: a task cannot be scored on its shards, for example because a class is misspelt.
        DataError: a task refuses a row whose label no class names; the row is named.
        ShardError: the probes' shards are not there, or a task lacks rows while some of them cannot be read.
    """
    asked = config.observe.probe
    if config.observe.every > 0 and asked is not None:
        return check_tasks(asked.shards or config.data.shards, asked.tasks, config.data.cache)
    return {}


def for_workers(observe: ObserveConfig) -> ObserveConfig:
    """The same for processes with another working directory."""
    if observe.probe is None or observe.probe.shards is None:
        return observe
    probe = observe.probe.model_copy(update={"shards": absolute(observe.probe.shards)})
    return observe.model_copy(update={"probe": probe})
