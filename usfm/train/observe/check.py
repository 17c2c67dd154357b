"""What a driver checks of the observations before it starts workers."""

from usfm.data.probe_set import check_tasks
from usfm.train.pretrain_plan import PretrainConfig

__all__ = ["check_observing"]


def check_observing(config: PretrainConfig) -> None:
    """Can the probes' tasks be scored? Reads labels, no images, and nothing at all where no task is asked for.

    Raises:
        ConfigError: a task cannot be scored on its shards, for example because a class is misspelt.
        ShardError: the probes' shards are not there, or a task lacks rows while some of them cannot be read.
    """
    asked = config.observe.probe
    if config.observe.every > 0 and asked is not None:
        check_tasks(asked.shards or config.data.shards, asked.tasks, config.data.cache)
