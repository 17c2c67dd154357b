"""The middle of a fine-tuning run on disk: `state/` in its folder, there from the first score to the run's end.

A killed run goes on from it and ends with the same numbers, bit for bit: order, crops and dropout are functions of
(seed, step), so weights, optimizer and step are all there is to keep.
"""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from usfm.errors import CheckpointError
from usfm.train.durable import LEFTOVER, remove_folder, sync
from usfm.train.finetune_config import FinetuneConfig

__all__ = ["RESULT", "Middle", "RunState", "finished"]

FILE = "middle.pt"
RESULT = "result.json"
log = logging.getLogger(__name__)


def finished(run_dir: Path, inputs: dict[str, str]) -> dict[str, Any] | None:
    """The result of a run that came to its end on these very shards and first weights, else None."""
    try:
        result: dict[str, Any] = json.loads((run_dir / RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return result if result.get("inputs") == inputs else None


@dataclass(frozen=True)
class Middle:
    """Where a run stands.

    Attributes:
        step: steps taken.
        best: best score on the validation set so far; None before the first.
        seconds: of work so far.
    """

    step: int = 0
    best: float | None = None
    seconds: float = 0.0


class RunState:
    """Saves and finds the middle of one run. One worker saves, every worker loads."""

    def __init__(self, config: FinetuneConfig, inputs: dict[str, str]) -> None:
        """Look for what an earlier process left.

        Args:
            config: of the run.
            inputs: see `FinetuneConfig.inputs`. What was saved with another config or other inputs is another run.

        Raises:
            CheckpointError: the file is damaged.
        """
        self._folder = Path(config.run_dir) / "state"
        # the same run, wherever its folder lies
        self._identity = {"config": config.model_dump(mode="json", exclude={"run_dir", "shards"}), "inputs": inputs}
        self._found: dict[str, Any] | None = None
        path = self._folder / FILE
        if not path.exists():
            return
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises what it likes
            raise CheckpointError(f"{path} is damaged ({error}); delete it to begin anew") from None
        if found["identity"] == self._identity:
            self._found = found
        else:
            log.warning("%s is of another run (other settings, shards or first weights); beginning anew", path)

    @property
    def middle(self) -> Middle:
        """Where to go on."""
        return Middle() if self._found is None else Middle(**self._found["middle"])

    def load_model(self, model: nn.Module) -> None:
        """Fill in the weights, where there are any."""
        if self._found is not None:
            model.load_state_dict(self._found["model"])

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Fill in the optimizer, when the model is where it will compute; the file is let go."""
        if self._found is not None:
            optimizer.load_state_dict(self._found["optimizer"])
        self._found = None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, middle: Middle) -> None:
        """Replace the file; a process killed meanwhile leaves the old one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{FILE}{LEFTOVER}"
        document = {
            "identity": self._identity,
            "middle": vars(middle),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(document, partial)
        sync(partial)
        os.replace(partial, self._folder / FILE)
        sync(self._folder)

    def clear(self) -> None:
        """The run is at its end."""
        if self._folder.exists():
            remove_folder(self._folder)
