"""What a sweep runs: its config, and every trial of it, checked before any starts."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ray_jobs.cluster import ClusterConfig
from ray_jobs.finetune import absolute
from ray_jobs.sweep_search import SearchConfig, draw, nested, read_tuned, value_at
from usfm.config import Config
from usfm.data.task_config import TaskConfig
from usfm.errors import ConfigError
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.sweep_values import LAYERS, entry_of, merged, shared_values

__all__ = ["PLACEMENT", "TABLE", "Study", "SweepConfig", "Trial", "studies", "trials"]

PLACEMENT = (
    *("run_dir", "max_concurrent", "workers_per_trial", "cpus_per_trial", "gpus_per_trial", "cache_features"),
    *("keep", "retries", "cluster"),
)
"""Keys that may change when a sweep goes on."""
TABLE = ("tasks", "inits", "fractions", "seeds")
"""Keys that say which trials a table has: it may grow, while each trial stays what its own folder says."""
AXES = ("run_dir", "shards", "task", "fraction", "seed")
NAME = r"[^\W_][\w+.-]{0,63}"


class SweepConfig(Config):
    """A label-efficiency sweep, or a search of hyper-parameters.

    Attributes:
        run_dir: folder of the sweep.
        shards: folder that `usfm ingest` wrote.
        tasks: the tasks. Of one with split_by=folds, the trial with seed s tests fold `s % folds`: with seeds 0 to
            folds - 1 each patient is tested once, and its own `fold` stays 0.
        inits: name -> "scratch", or what `init` of a fine-tuning takes (a run, a bundle, a weight file), or a
            mapping of `FinetuneConfig` values of its own, e.g. `{network: resnet50}` for a baseline; its key
            `tasks` names the tasks that it is for, where it does not fit all, its key `fractions` the label
            fractions, where not all are worth its cost. Every name becomes a curve and a part of folders.
        fractions: label fractions; patient-level, stratified, nested.
        seeds: of fraction, head and batches.
        finetune: values of `FinetuneConfig` that all trials share.
        per_task: values that hold for one task alone, by task name.
        tuned: task -> initialisation -> values, or the path of a `best.yaml` that a search wrote. The order of
            precedence is finetune, per_task, inits, tuned.
        search: a search in place of a table, at one fraction and one seed; None = the table.
        max_concurrent: trials at a time; needed, since drivers that wait for workers can fill a cluster.
        workers_per_trial: 0 = the trial's own process (no start-up cost); n >= 1 = a Ray Train group of n.
        cpus_per_trial: CPUs of a trial, or of each of its workers, fractions allowed.
        gpus_per_trial: GPUs, fractions allowed.
        cache_features: trials with freeze_encoder and views=whole learn from features that are computed once and
            kept in `features/`; not with workers_per_trial, nor for a search by Optuna of what features depend on.
        keep: "best" = of the trials that share task, initialisation and fraction, one bundle (the best validation
            score, in folds of the lowest fold: `usfm.metrics.preference`) and all scores; "all" = every bundle.
        retries: of a failed trial; a trial whose process was killed goes on where its last state stood, and one
            that would fail the same again (NaN, its settings, its rows) is not retried.
        cluster: Ray.
    """

    run_dir: str = "runs/sweep"
    shards: str = "runs/shards"
    tasks: list[TaskConfig] = Field(min_length=1)
    inits: dict[str, str | dict[str, Any]] = Field(min_length=1)
    fractions: list[float] = Field(default=[0.01, 0.05, 0.1, 0.2, 0.5, 1.0], min_length=1)
    seeds: list[int] = Field(default=[0, 1, 2, 3, 4], min_length=1)
    finetune: dict[str, Any] = {}
    per_task: dict[str, dict[str, Any]] = {}
    tuned: dict[str, dict[str, dict[str, Any]]] = {}
    search: SearchConfig | None = None
    max_concurrent: int = Field(default=2, ge=1)
    workers_per_trial: int = Field(default=0, ge=0)
    cpus_per_trial: float = Field(default=1, gt=0)
    gpus_per_trial: float = Field(default=0, ge=0)
    cache_features: bool = True
    keep: Literal["best", "all"] = "best"
    retries: int = Field(default=1, ge=0)
    cluster: ClusterConfig = ClusterConfig()

    _read_tuned = field_validator("tuned", mode="before")(read_tuned)

    @field_validator("inits")
    @classmethod
    def _names_fit_folders(cls, inits: dict[str, Any]) -> dict[str, Any]:
        if odd := [name for name in inits if not re.fullmatch(NAME, name)]:
            raise ValueError(
                "names of initialisations are parts of folders and take letters, digits, _, +, . and - (the first "
                f"a letter or digit, at most 64); got {', '.join(map(repr, odd))}"
            )
        return inits


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run of a sweep.

    Attributes:
        name: of its folder.
        init: name of its initialisation.
        config: what is run.
        searched: values that the search gave it, by dotted key.
    """

    name: str
    init: str
    config: FinetuneConfig
    searched: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The trials that differ in fraction, seed and searched values alone.

    Attributes:
        task: the task.
        init: name of the initialisation.
        values: of `FinetuneConfig`, without task, fraction, seed and run_dir.
        fractions: label fractions that it is run at.
        folder: of the sweep.
    """

    task: TaskConfig
    init: str
    values: Mapping[str, Any]
    fractions: list[float]
    folder: str

    def trial(self, fraction: float, seed: int, searched: Mapping[str, Any] | None = None) -> Trial:
        """One trial.

        Raises:
            ConfigError: a key or value is wrong.
        """
        name, run = f"{self.task.name}-{self.init}-{fraction:g}-{seed}", {"fraction": fraction, "seed": seed}
        task = {"task": self.task.of_seed(seed).model_dump()}
        config = FinetuneConfig.build(merged(self.values, nested(searched or {}), run, task))
        read = config.model_dump(mode="json")
        values = {key: value_at(read, key) for key in searched or ()}  # as they were read: 1 may be 1.0
        if values:
            told = json.dumps(values, sort_keys=True)
            name += f"-{hashlib.blake2b(told.encode(), digest_size=4).hexdigest()}"
        config = config.model_copy(update={"run_dir": str(Path(self.folder) / "trials" / name)})
        return Trial(name, self.init, absolute(config), values)


def studies(config: SweepConfig) -> list[Study]:
    """Every task with every initialisation that is for it, in order.

    Raises:
        ConfigError: a key or value of `finetune`, `per_task`, `inits`, `tuned` or `search` is wrong.
    """
    names = [task.name for task in config.tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"two tasks have one name: {', '.join(names)}")
    for task in config.tasks:
        if task.fold:
            raise ConfigError(
                f"task {task.name} sets fold {task.fold}, which a sweep takes from each trial's seed (seed s tests "
                f"fold s % {task.folds}); leave it out, and choose seeds"
            )
    entries = {name: entry_of(stated) for name, stated in config.inits.items()}
    chosen = {name: _listed(entry.pop("tasks", names)) for name, entry in entries.items()}
    shares = {name: _listed(entry.pop("fractions", config.fractions)) for name, entry in entries.items()}
    _require_known("per_task", config.per_task, names, "task")
    for name in entries:
        _require_known(f"inits.{name}.tasks", chosen[name], names, "task")
        _require_known(f"inits.{name}.fractions", shares[name], config.fractions, "label fraction")
    for where, given in {"finetune": config.finetune, **{f"per_task.{n}": v for n, v in config.per_task.items()},
                         **{f"inits.{n}": v for n, v in entries.items()}}.items():  # fmt: skip
        if axes := sorted(set(given) & set(AXES)):
            raise ConfigError(f"{where} sets {', '.join(axes)}, which the sweep itself sets for every trial")
    made = []
    for task in config.tasks:
        for init in entries:
            if task.name not in chosen[init]:
                continue
            if config.tuned and init not in config.tuned.get(task.name, {}):
                raise ConfigError(
                    f"tuned has no values for task {task.name} with initialisation {init}; search them too, or "
                    f"give `{task.name}: {{{init}: {{}}}}`"
                )
            values = shared_values(config.model_dump(include=set(LAYERS)), task.name, init)
            values["shards"] = config.shards
            made.append(Study(task, init, values, shares[init], config.run_dir))
    if config.search is not None:
        _check_search(config, made)
    return made


def trials(config: SweepConfig) -> dict[str, Trial]:
    """Every trial by name, checked before any starts; of an Optuna search those that are known before it: none.

    Raises:
        ConfigError: as `studies`.
    """
    found = studies(config)
    if config.search is None:
        # the slow dimension last, so that a table with every fraction exists early
        made = [
            study.trial(fraction, seed)
            for seed in config.seeds
            for task in config.tasks
            for fraction in config.fractions
            for study in found
            if study.task.name == task.name and fraction in study.fractions
        ]
    elif config.search.algorithm == "random":
        points = [draw(config.search, number) for number in range(config.search.samples)]
        made = [study.trial(config.fractions[0], config.seeds[0], point) for study in found for point in points]
    else:
        made = []
    named: dict[str, Trial] = {}
    for trial in made:
        if named.setdefault(trial.name, trial).config != trial.config:
            raise ConfigError(
                f"two trials would share the folder {trial.name}; give fractions that differ in their first six "
                "digits, and initialisations whose names do not end like a fraction"
            )
    return named


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _require_known(where: str, given: Iterable[Any], known: Sequence[Any], what: str) -> None:
    if unknown := [one for one in given if one not in known]:
        said, have = (", ".join(map(str, some)) for some in (unknown, known))
        raise ConfigError(f"{where} names no {what} of this sweep: {said}; it has {have}")


def _check_search(config: SweepConfig, found: list[Study]) -> None:
    """Both ends of every range have to be valid before anything is run."""
    assert config.search is not None
    if len(config.fractions) > 1 or len(config.seeds) > 1:
        raise ConfigError(
            f"a search runs at one label fraction and one seed, got fractions {config.fractions} and seeds "
            f"{config.seeds}; set fractions=[1.0] seeds=[0]"
        )
    for key, span in config.search.space.items():
        if key.split(".")[0] in AXES:
            raise ConfigError(f"search.space.{key}: the sweep itself sets {key.split('.')[0]} for every trial")
        for study in found:
            for value in span.ends():
                try:
                    read = study.trial(config.fractions[0], config.seeds[0], {key: value}).searched[key]
                except ConfigError as error:
                    raise ConfigError(f"search.space.{key}: {value!r} cannot be run: {error}") from None
                if read != value:
                    raise ConfigError(f"search.space.{key}: {value!r} is read as {read!r}; write it so")
