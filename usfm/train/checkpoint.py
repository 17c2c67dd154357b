"""Checkpoints: a folder of weights (safetensors), optimizer state (no pickled code) and a state file with hashes.

step-00000100/
  model.safetensors     every parameter and buffer of the objective
  optimizer.pt          read with weights_only=True
  state.json            step, samples, seed, what the run was, SHA-256 of the other files; written last
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from usfm.data.patience import patiently
from usfm.errors import CheckpointError, EnvironmentProblem
from usfm.file_hash import file_sha256
from usfm.train.parallel import gathered

__all__ = [
    "Snapshot",
    "check_identity",
    "checkpoint_folder",
    "checkpoints",
    "find_checkpoint",
    "gather_optimizer",
    "gather_weights",
    "is_whole",
    "latest_checkpoint",
    "load_weights",
    "read_state",
    "require_fit",
    "restore_checkpoint",
    "take_snapshot",
    "write_snapshot",
]

log = logging.getLogger(__name__)

STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"
READ_PATIENCE_S = 30.0


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps; names sort like steps."""
    return run_dir / f"step-{step:08d}"


def checkpoints(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, newest first, whole or not."""
    return sorted((path for path in run_dir.glob("step-*") if path.is_dir()), reverse=True)


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds, in CPU memory and apart from what is trained on."""

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def take_snapshot(
    step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Snapshot:
    """Copy the state after `step` steps. Every worker calls it: sharded tensors are gathered."""
    return Snapshot(step, gather_weights(model), gather_optimizer(model, optimizer), dict(state))


def gather_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, on the CPU and detached from the model."""
    return {name: _copied(tensor) for name, tensor in model.state_dict().items()}


def gather_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state, on the CPU and detached; `model` is what its parameters belong to."""
    state: dict[str, Any] = optimizer.state_dict()
    moments = {
        number: {name: _copied(value) if torch.is_tensor(value) else value for name, value in of_one.items()}
        for number, of_one in state["state"].items()
    }
    # groups change with the learning rate: they are copied too
    return {**state, "state": moments, "param_groups": [dict(group) for group in state["param_groups"]]}


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    return gathered(tensor.detach()).to("cpu", copy=True).contiguous()


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint into an empty folder; `state.json` comes last and holds the other files' hashes."""
    folder.mkdir()  # not its parents: a run's folder that is missing is a storage that is away
    save_file(snapshot.weights, folder / MODEL)
    torch.save(snapshot.optimizer, folder / OPTIMIZER)
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != STATE}
    text = json.dumps({**snapshot.state, "sha256": hashes}, indent=1) + "\n"
    (folder / STATE).write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Check a checkpoint's hashes and return its state.

    A process hashes a file once, and again when its size, time or inode has changed. A storage that does not answer
    is asked again for a while: a good checkpoint must not be taken for a damaged one.

    Raises:
        CheckpointError: a file is missing or its content changed.
    """
    try:
        text = patiently(lambda: (folder / STATE).read_text(encoding="utf-8"), str(folder / STATE), READ_PATIENCE_S)
        state: dict[str, Any] = json.loads(text)
        for name, expected in state["sha256"].items():
            if patiently(partial(_known_sha256, folder / name), str(folder / name), READ_PATIENCE_S) != expected:
                raise CheckpointError(
                    f"{folder / name} does not match its hash in {STATE}; use an older checkpoint"
                )
    except (OSError, EnvironmentProblem, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {error}") from None
    return state


def is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are there with the content they were saved with."""
    try:
        read_state(folder)
    except CheckpointError:
        return False
    return True


def find_checkpoint(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that is whole, and why each newer one is passed over, newest first."""
    reasons: list[str] = []
    for folder in checkpoints(run_dir):
        try:
            read_state(folder)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        return folder, reasons
    return None, reasons


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged or half-written ones are passed over with a warning."""
    found, reasons = find_checkpoint(run_dir)
    for reason in reasons:
        log.warning("passed over: %s", reason)
    return found


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a checkpoint's weights; every key must fit.

    Raises:
        CheckpointError: keys or shapes differ; the message names them.
    """
    weights = load_file(folder / MODEL)
    require_fit(folder, model, weights, "use the encoder size and image side of that run")
    model.load_state_dict(weights)


def require_fit(source: Path, model: nn.Module, weights: Mapping[str, torch.Tensor], advice: str) -> None:
    """Every key and shape of `weights` is the model's, and the other way round.

    Raises:
        CheckpointError: they differ; the message names the first keys and ends with `advice`.
    """
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or sorted(k for k in own if own[k].shape != weights[k].shape)
    if wrong:
        named = ", ".join(wrong[:3])
        raise CheckpointError(f"{source} does not fit this model: {len(wrong)} keys differ, e.g. {named}; {advice}")


def restore_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, must_equal: Mapping[str, Any]
) -> dict[str, Any]:
    """Load weights and optimizer state to go on with a run.

    Args:
        folder: the checkpoint.
        model: unwrapped, of the same shape.
        optimizer: over the same parameter groups.
        must_equal: entries of the state that have to be the same, e.g. seed and shards.

    Returns:
        The saved state.

    Raises:
        CheckpointError: damaged, from another model, or from a run with another sample stream.
    """
    state = check_identity(folder, must_equal)
    load_weights(model, folder)
    # moments are the checkpoint's, decay and betas this run's: a run that goes on from another one may change them
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    return state


def check_identity(folder: Path, must_equal: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint that belongs to this run.

    Raises:
        CheckpointError: damaged, or from a run with another sample stream.
    """
    state = read_state(folder)
    for key, value in must_equal.items():
        if state.get(key) != value:
            raise CheckpointError(
                f"{folder} was saved with {key}={state.get(key)!r}, this run has {value!r}: the sample stream "
                "would differ. Use another run_dir, or the old value"
            )
    return state


def _known_sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, *_: int) -> str:
    return file_sha256(path)
