"""What a sweep's folder holds already, when the sweep goes on or grows."""

from collections.abc import Mapping
from pathlib import Path

from ray_jobs.sweep_config import TABLE, SweepConfig, Trial
from usfm.errors import ConfigError
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.rundir import read_config

__all__ = ["require_grown", "require_same"]


def require_grown(folder: Path, config: SweepConfig) -> None:
    """A table that loses trials would look for the best of the rest, whose bundle is deleted.

    Args:
        folder: of the sweep.
        config: that is to be run there.

    Raises:
        ConfigError: the folder has tasks, initialisations, fractions or seeds that the config does not name.
    """
    if config.search is not None or not (folder / "config.yaml").exists():
        return
    old, new = read_config(folder), config.model_dump(mode="json")
    for key in TABLE:
        had, has = ([one["name"] if key == "tasks" else one for one in values[key]] for values in (old, new))
        if lost := [one for one in had if one not in has]:
            raise ConfigError(
                f"{folder} has trials of {key} {', '.join(map(str, lost))}; a table may grow but not lose what it "
                "has: name them too, or give another run_dir"
            )


def require_same(planned: Mapping[str, Trial]) -> None:
    """A sweep that goes on with more seeds, say, must not take a trial of other settings for one of its own.

    Args:
        planned: the trials by name.

    Raises:
        ConfigError: a trial's folder holds it with other settings.
    """
    for name, trial in planned.items():
        folder = Path(trial.config.run_dir)
        if (folder / "config.yaml").exists():
            # read anew, so that a key that is younger than the folder has its default; a folder may be moved
            old, new = FinetuneConfig.build(read_config(folder)).model_dump(), trial.config.model_dump()
            if changed := sorted(key for key in new if old[key] != new[key] and key != "run_dir"):
                raise ConfigError(
                    f"{folder} holds trial {name} with other values of {', '.join(changed)}; give the task or "
                    "initialisation another name, or the sweep another run_dir"
                )
