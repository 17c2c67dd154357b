"""Hyper-parameter search of a sweep: what is searched, a random search's draws, and the best values as a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from usfm.config import Config
from usfm.rng import generator
from usfm.train.durable import write_text

__all__ = ["SearchConfig", "SearchRange", "draw", "nested", "read_tuned", "value_at", "write_best"]

Scalar = bool | int | float | str


class SearchRange(Config):
    """The values that a search may give to one key; exactly one attribute is set.

    Attributes:
        uniform: lowest and highest value.
        loguniform: lowest and highest value, both above 0; every factor is equally likely.
        integer: lowest and highest whole number, both included.
        choice: the values themselves.
    """

    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: list[Scalar] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "SearchRange":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of uniform, loguniform, integer, choice; got {', '.join(given) or 'none'}")
        ends = self.uniform or self.loguniform or self.integer
        if ends and not ends[0] < ends[1]:
            raise ValueError(f"the lowest value {ends[0]} is not below the highest {ends[1]}")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform starts above 0, got {self.loguniform[0]}")
        return self

    def ends(self) -> list[Scalar]:
        """What has to be a valid value before a search starts: both ends, or every choice."""
        return list(self.choice or self.uniform or self.loguniform or self.integer or ())

    def at(self, draw: float) -> Scalar:
        """The value at a draw in [0, 1)."""
        if self.choice is not None:
            return self.choice[int(draw * len(self.choice))]
        if self.integer is not None:
            low, high = self.integer
            return low + int(draw * (high - low + 1))
        if self.loguniform is not None:
            lowest, highest = self.loguniform
            return float(lowest * (highest / lowest) ** draw)
        assert self.uniform is not None  # the validator has seen to it
        lowest, highest = self.uniform
        return lowest + (highest - lowest) * draw


class SearchConfig(Config):
    """A search of the best values for each task and initialisation, by the validation score.

    Attributes:
        space: dotted key of `FinetuneConfig` -> its range, e.g. `optim.lr: {loguniform: [1.0e-4, 1.0e-2]}`.
        samples: points that are tried for each task and initialisation.
        algorithm: "random" tries the same points for every initialisation, all known before the first starts;
            "optuna" lets Optuna's TPE choose each point after the scores before it.
        scheduler: "fifo" runs every trial to its end; "asha" stops the weak ones early.
        grace: share of the steps that every trial may take before "asha" stops it.
        seed: of the points.
    """

    space: dict[str, SearchRange] = Field(min_length=1)
    samples: int = Field(default=16, ge=1)
    algorithm: Literal["random", "optuna"] = "random"
    scheduler: Literal["fifo", "asha"] = "fifo"
    grace: float = Field(default=0.25, gt=0, le=1)
    seed: int = 0


def draw(search: SearchConfig, number: int) -> dict[str, Scalar]:
    """Point `number` of a random search by dotted key: a pure function of (seed, key, number)."""
    return {
        key: span.at(generator(search.seed, "search", key, number).random()) for key, span in search.space.items()
    }


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys to a tree: `{"optim.lr": 1}` to `{"optim": {"lr": 1}}`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        node = tree
        *groups, last = key.split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in a tree."""
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return node


def write_best(path: Path, found: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
    """Write the best values of a search as `task: {init: values}`, which `tuned=` of another sweep takes.

    Args:
        path: the YAML file.
        found: (task, initialisation, values by dotted key).
    """
    tree: dict[str, dict[str, Any]] = {}
    for task, init, values in found:
        tree.setdefault(task, {})[init] = nested(values)
    write_text(path, yaml.safe_dump(tree, sort_keys=False))


def read_tuned(value: Any) -> Any:
    """The values of a `best.yaml` where a path is given; anything else as it is.

    Raises:
        ValueError: no such file, not YAML, or no values in it.
    """
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{value} is not the best.yaml of a search: {error}") from None
    if not found:  # taken as it is, the sweep would run untuned
        raise ValueError(f"{value} holds no values; search again, or leave `tuned` out to run untuned")
    return found
