"""What a model inherits through every earlier run: licences and sources of all data that its weights have seen.

Also whether they learnt from labels.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from usfm.data.shard_reader import ShardReader
from usfm.data.shards import ShardIndex
from usfm.data.stream import StreamConfig
from usfm.data.task_config import TaskConfig
from usfm.errors import CheckpointError, ConfigError, DataError, UsfmError
from usfm.file_hash import file_sha256
from usfm.models.bundle import SPEC, read_bundle_spec
from usfm.models.weights.read import read_weights
from usfm.models.weights.report import AUTHORS_SHA256, WeightsReport
from usfm.train.checkpoint import STATE
from usfm.train.finetune_config import SCRATCH
from usfm.train.initial_weights import whole_source
from usfm.train.rundir import read_config

__all__ = [
    "Inheritance",
    "inherited",
    "labels_apart_on",
    "labels_behind",
    "labels_of_tested",
    "labels_warning",
    "ledger_of",
]

AUTHORS_LICENCE = "CC BY-NC 4.0 (weights of USFM's authors)"
LONGEST_CHAIN = 32
UNLABELLED = ("mae", "simmim")
"""Layouts (`usfm.models.weights.layouts`) that are known by the decoder of pre-training without labels."""


@dataclass(frozen=True)
class Inheritance:
    """Of the weights that a run began with.

    Attributes:
        licences: sorted; what is not known is said in words.
        trained_on: items by source.
        begun_from: the sources of weights, the nearest first.
    """

    licences: list[str] = field(default_factory=list)
    trained_on: dict[str, int] = field(default_factory=dict)
    begun_from: list[str] = field(default_factory=list)


def ledger_of(data: StreamConfig) -> Counter[tuple[str, str]]:
    """Rows that a run can draw, counted by (source, licence).

    Raises:
        ShardError: the shards are missing or damaged.
    """
    reader = ShardReader(data.shards)
    files = reader.index.select(data.split, data.sampling.organs, data.sampling.exclude_organs)
    rows = reader.table([file for of_organ in files.values() for file in of_organ]).select(["source", "licence"])
    return Counter(zip(rows["source"].to_pylist(), rows["licence"].to_pylist(), strict=True))


def inherited(source: Path | None, depth: int = 0) -> Inheritance:
    """What weights bring along.

    Args:
        source: a run, a checkpoint, a bundle or a weight file; None = random weights, which bring nothing.
        depth: runs already followed.

    Raises:
        CheckpointError: a run that began from itself.
    """
    if source is None:
        return Inheritance()
    if depth > LONGEST_CHAIN:
        raise CheckpointError(f"{source}: more than {LONGEST_CHAIN} runs began from one another; is it a circle?")
    source = whole_source(source)
    if (source / SPEC).exists():
        spec = read_bundle_spec(source)
        return Inheritance(sorted(spec.licences), dict(spec.trained_on), [str(source)])
    if not source.is_dir():
        known = source.exists() and file_sha256(source) == AUTHORS_SHA256
        return Inheritance([AUTHORS_LICENCE if known else f"not stated ({source.name})"], {}, [str(source)])
    run_dir = source.parent if (source / STATE).exists() else source
    try:
        config = read_config(run_dir)
        items = ledger_of(StreamConfig.build(config["data"]))
    except (ConfigError, DataError, KeyError):  # the run or its shards are gone
        return Inheritance([f"not known (data of {run_dir.name})"], {}, [str(source)])
    before = inherited(Path(config["start"]["source"]) if config.get("start") else None, depth + 1)
    trained_on = Counter(before.trained_on)
    for (name, _), count in items.items():
        trained_on[name] = max(trained_on[name], count)  # the same rows may have been used twice
    licences = {*before.licences, *(licence for _, licence in items)}
    return Inheritance(sorted(licences), dict(sorted(trained_on.items())), [str(source), *before.begun_from])


def labels_behind(inits: Iterable[str], apart_on: str | None = None) -> bool | None:
    """Whether one of these starts learnt from labels: a fine-tuned bundle did, and a run that began from one.

    The file of USFM's authors did not, nor did one that still holds the decoder of its pre-training (MAE, SimMIM);
    of other weight files it is not known: `usfm weights released=` writes such files from any encoder of ours. An
    exported encoder says it of the run that it was exported from, also that it is not known; of one from before it
    said anything, the pre-training run in whose folder it lies is asked.

    Args:
        inits: as `init` of a fine-tuning states them: "scratch", a run, a checkpoint, a bundle or a weight file.
        apart_on: fingerprint of shards; labels of their training and validation split do not count. A bundle from
            before it said by what it was split, and on which shards, may have learnt from others.

    Returns:
        None = not known: one of them, or what it began from, is gone, damaged or does not say, and no other one
        did.
    """
    found = {_past(Path(init)).learnt_beyond(apart_on) for init in inits if init != SCRATCH}
    return True if True in found else None if None in found else False


def labels_apart_on(init: str) -> str | None:
    """Fingerprint of the shards whose test split shares no patient with any label behind a start.

    Args:
        init: as of `labels_behind`.

    Returns:
        None = there are no such shards, or no labels.
    """
    past = _Past(False) if init == SCRATCH else _past(Path(init))
    return past.shards if past.learnt and past.learnt_beyond(past.shards) is False else None


def labels_of_tested(init: str, task: TaskConfig, shards: str) -> bool | None:
    """Whether a start may have learnt from labels of patients that a task tests; None = nothing says so.

    With split_by=split a task tests ingest's test split, whose labels a bundle of the same split of the same shards
    has not seen. Any other one may have: in folds all patients are tested, of a source the images of all splits.

    Args:
        init: as of `labels_behind`.
        task: that is tested.
        shards: of the task; where they are gone nothing is taken for kept apart.
    """
    if init == SCRATCH:
        return False
    apart_on = None
    if task.split_by == "split":
        with suppress(UsfmError):  # also a storage that does not answer
            apart_on = ShardIndex.load(shards).fingerprint
    return labels_behind([init], apart_on)


def labels_warning(start: str, learnt: bool | None, tasks: Sequence[str] = ()) -> str:
    """What to say of a start whose labels may be those of tested patients; "" = nothing.

    Args:
        start: its name.
        learnt: as `labels_of_tested` says.
        tasks: names of the tasks that it is for; () = there is one alone.
    """
    if learnt is False:
        return ""
    where = f" in {', '.join(tasks)}" if tasks else ""
    how = "learnt from labels, which may be" if learnt else (
        "may have learnt from labels (nothing says whether it did), also"
    )  # fmt: skip
    return (
        f"{start} {how} of patients that are tested{where}; scores may be too high: start from a pre-training run, "
        "or use split_by=split on the same shards here and for what it began from"
    )


@lru_cache(maxsize=64)  # a sweep asks for every trial
def _report(file: Path, size: int, changed_ns: int) -> WeightsReport:
    """What a weight file is, as of its last change."""
    return read_weights(file).report


class _Past(NamedTuple):
    """Whether weights learnt from labels, None = not known.

    Attributes:
        learnt: from any.
        shards: fingerprint of those whose training and validation split showed them; None = they were not split so.
        before: whether they learnt from other labels before.
    """

    learnt: bool | None
    shards: str | None = None
    before: bool | None = None

    def learnt_beyond(self, shards: str | None) -> bool | None:
        """Whether from others than those of the training and validation split of these shards; None = of none."""
        return self.before if shards is not None and shards == self.shards else self.learnt


def _past(source: Path, depth: int = 0) -> _Past:
    source = whole_source(source)
    try:
        if source.is_file():
            stat = source.stat()
            report = _report(source, stat.st_size, stat.st_mtime_ns)
            return _Past(False if report.sha256 == AUTHORS_SHA256 or report.layout in UNLABELLED else None)
        if (source / SPEC).exists():
            spec = read_bundle_spec(source)
            if spec.kind != "embedding":
                of, split = spec.metrics, spec.metrics.get("split_by") == "split"
                return _Past(True, of.get("shards_fingerprint") if split else None, of.get("labels_before"))
            if "labels_behind" in spec.model_fields_set:  # a stated null is "not known", wherever the bundle lies
                return _Past(spec.labels_behind, spec.labels_apart_on, False)
            source = source.parent  # where `usfm export` writes unless it is told otherwise
        config = read_config(source.parent if (source / STATE).exists() else source)
    except (CheckpointError, ConfigError):
        return _Past(None)
    if "objective" not in config:  # of no pre-training
        return _Past(None)
    if not (start := config.get("start")):
        return _Past(False)
    return _past(Path(start["source"]), depth + 1) if depth < LONGEST_CHAIN else _Past(None)
