"""Checkpoints: a folder of weights (safetensors), optimizer state (no pickled code) and a state file with hashes.

step-00000100/
  model.safetensors     every parameter and buffer of the objective
  optimizer.pt          read with weights_only=True
  state.json            step, samples, seed, what the run was, SHA-256 of the other files; written last
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from usfm.errors import CheckpointError

__all__ = [
    "check_identity",
    "checkpoint_folder",
    "gather_weights",
    "latest_checkpoint",
    "load_weights",
    "read_state",
    "require_fit",
    "restore_checkpoint",
    "save_checkpoint",
]

STATE = "state.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.pt"


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps; names sort like steps."""
    return run_dir / f"step-{step:08d}"


def gather_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, on the CPU and detached from the model."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None, state: Mapping[str, Any]
) -> None:
    """Write a checkpoint into an empty folder; `state.json` comes last and holds the other files' hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(gather_weights(model), folder / MODEL)
    if optimizer is not None:
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
    hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.name != STATE}
    (folder / STATE).write_text(json.dumps({**state, "sha256": hashes}, indent=1) + "\n", encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Check a checkpoint's hashes and return its state.

    Raises:
        CheckpointError: a file is missing or its content changed.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        for name, expected in state["sha256"].items():
            if _sha256(folder / name) != expected:
                raise CheckpointError(
                    f"{folder / name} does not match its hash in {STATE}; use an older checkpoint"
                )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint: {error}") from None
    return state


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; damaged or half-written ones are passed over."""
    for folder in sorted(run_dir.glob("step-*"), reverse=True):
        try:
            read_state(folder)
        except CheckpointError:
            continue
        return folder
    return None


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
    optimizer.load_state_dict(torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True))
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
