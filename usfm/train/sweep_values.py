"""What the trials of one task and initialisation of a sweep share: its config's layers, one over the other."""

from collections.abc import Mapping
from typing import Any

__all__ = ["LAYERS", "PLACES", "entry_of", "merged", "shared_values"]

LAYERS = ("finetune", "per_task", "inits", "tuned")
"""Keys of a sweep's config that hold values of `FinetuneConfig`, in rising order of precedence."""
PLACES = ("tasks", "fractions")
"""Keys of an initialisation that say where it is tried, and are no values of a run."""


def entry_of(stated: str | Mapping[str, Any]) -> dict[str, Any]:
    """An initialisation as a mapping, whichever way the config states it."""
    return {"init": stated} if isinstance(stated, str) else dict(stated)


def merged(base: Mapping[str, Any], *overs: Mapping[str, Any]) -> dict[str, Any]:
    """Trees of values, later ones over earlier ones."""
    both = dict(base)
    for over in overs:
        for key, value in over.items():
            inner = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
            both[key] = merged(both[key], value) if inner else value
    return both


def shared_values(config: Mapping[str, Any], task: str, init: str) -> dict[str, Any]:
    """Values of `FinetuneConfig` for all trials of a task with an initialisation, but shards, task and axes.

    Args:
        config: of the sweep, as plain values; a key of `LAYERS` that it lacks says nothing.
        task: name of the task.
        init: name of the initialisation.
    """
    shared, per_task, inits, tuned = (config.get(key, {}) for key in LAYERS)
    own = {key: value for key, value in entry_of(inits.get(init, {})).items() if key not in PLACES}
    return merged(shared, per_task.get(task, {}), own, tuned.get(task, {}).get(init, {}))
