"""Where a run begins: at its own newest checkpoint, from another run or weight file, or from nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from usfm.config import Config
from usfm.errors import CheckpointError, ConfigError
from usfm.models.objective import Objective
from usfm.train.checkpoint import STATE, check_identity, latest_checkpoint, load_weights, restore_checkpoint
from usfm.train.initial_weights import encoder_config_of, load_encoder
from usfm.train.rundir import read_config

__all__ = ["StartConfig", "begin", "check_start", "pinned"]


class StartConfig(Config):
    """What a new run continues from. Once it has a checkpoint of its own, that one is used.

    Attributes:
        source: a pre-training run, one of its checkpoints (`RUN/step-00000100`), or, for "encoder" alone, also an
            exported model or a weight file.
        take: "everything" = weights, optimizer and place in the stream, so that the run goes on as if it had not
            stopped (same seed, batch, shards and sampling; a longer schedule is the usual reason); "weights" =
            encoder, decoder and the rest of the objective, with a fresh optimizer and stream (other data, other
            rate); "encoder" = the encoder alone.
    """

    source: str = Field(min_length=1)
    take: Literal["everything", "weights", "encoder"] = "everything"


def begin(
    own: Path | None,
    start: StartConfig | None,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> int:
    """Load what a run begins with.

    Args:
        own: the run's own newest checkpoint, None = it has none yet.
        start: what a new run continues from, None = nothing.
        objective: unwrapped, freshly made.
        optimizer: over its parameters.
        identity: what decides the stream; a checkpoint whose place in the stream is used must share it.

    Returns:
        The first step to take, 0-based.

    Raises:
        CheckpointError: damaged, of another model, or of a run with another sample stream.
    """
    if own is not None:
        return int(restore_checkpoint(own, objective, optimizer, identity)["step"])
    if start is None:
        return 0
    if start.take == "encoder":
        load_encoder(objective.encoder, Path(start.source))
        objective.encoder_loaded()
        return 0
    found = _checkpoint(start)
    if start.take == "weights":
        load_weights(objective, found)
        return 0
    return int(restore_checkpoint(found, objective, optimizer, identity)["step"])


def check_start(start: StartConfig | None, identity: Mapping[str, Any], total_steps: int) -> int:
    """Refuse, before anything starts, what a new run cannot continue from; returns its first step.

    Raises:
        CheckpointError: no whole checkpoint there, or one of a run with another sample stream.
        ConfigError: the schedule ends where the other run stopped.
    """
    if start is None:
        return 0
    if start.take == "encoder":
        encoder_config_of(Path(start.source))  # says what is wrong with it
        return 0
    found = _checkpoint(start)
    if start.take == "weights":
        return 0
    step = int(check_identity(found, identity)["step"])
    if step >= total_steps:
        raise ConfigError(
            f"start.source: {found} is at step {step}, and this run ends at step {total_steps}; raise epochs"
        )
    return step


def pinned(start: StartConfig | None, run_dir: Path) -> StartConfig | None:
    """The same start with an absolute source, and of a run the very checkpoint: the run may go on training.

    A run that is started again keeps the checkpoint that it began with.

    Raises:
        CheckpointError: no whole checkpoint there.
    """
    if start is None:
        return None
    source = Path(start.source).absolute()
    if start.take != "encoder":
        source = _earlier(source, run_dir) or _checkpoint(start.model_copy(update={"source": str(source)}))
    return start.model_copy(update={"source": str(source)})


def _earlier(source: Path, run_dir: Path) -> Path | None:
    """The checkpoint of `source` that the run in this folder was pinned to."""
    if not (run_dir / "config.yaml").exists():
        return None
    before = Path((read_config(run_dir).get("start") or {}).get("source", ""))
    return before if source in (before, before.parent) else None


def _checkpoint(start: StartConfig) -> Path:
    """The checkpoint that `source` is, or the newest whole one in it."""
    folder = Path(start.source)
    if (folder / STATE).exists():
        return folder
    if (found := latest_checkpoint(folder)) is not None:
        return found
    hint = "; for an exported model or a weight file set start.take=encoder" if folder.exists() else ""
    raise CheckpointError(f"start.source: {folder} holds no whole checkpoint of a pre-training run{hint}")
