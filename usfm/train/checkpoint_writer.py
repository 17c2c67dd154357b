"""Who saves: checkpoints of a run appear whole under their final name, and old ones go."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from usfm.train.checkpoint import checkpoint_folder, save_checkpoint

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """Saves checkpoints of one run; use it in a `with` block."""

    def __init__(self, run_dir: Path, keep: int, writes: bool = True) -> None:
        """Prepare.

        Args:
            run_dir: folder of the run.
            keep: how many checkpoints stay.
            writes: False on all workers but one. All of them call `save`: weights may have to be gathered.
        """
        self.run_dir, self.keep, self.writes = run_dir, keep, writes

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Save the state after `step` steps."""
        if not self.writes:
            return
        target = checkpoint_folder(self.run_dir, step)
        partial = self.run_dir / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        save_checkpoint(partial, model, optimizer, state)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in sorted(self.run_dir.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *_: object) -> None:
        pass
