"""Repeat a step that pre-training refused: `usfm replay runs/pretrain_tiny`."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.errors import ConfigError
from usfm.report.panels import run_config
from usfm.train.context import best_device
from usfm.train.replay import Replay, refused_steps, replay

__all__ = ["ReplayConfig", "main", "plan", "run"]

SHOWN = 8


class ReplayConfig(Config):
    """Which step to repeat.

    Attributes:
        run_dir: a pre-training run.
        step: 0-based; None = the last that was refused.
    """

    run_dir: str = "runs/pretrain_tiny"
    step: int | None = None


def plan(config: ReplayConfig) -> dict[str, Any]:
    """Which steps there are, and which would be repeated.

    Raises:
        ConfigError: no step of the run was refused, or not this one.
    """
    steps = refused_steps(Path(config.run_dir))
    if not steps:
        raise ConfigError(f"no step of {config.run_dir} was refused: {Path(config.run_dir) / 'nonfinite'} is empty")
    if config.step is not None and config.step not in steps:
        raise ConfigError(f"step {config.step} of {config.run_dir} was not refused; refused were {steps}")
    return {"refused": steps, "step": steps[-1] if config.step is None else config.step}


def run(config: ReplayConfig, console: Console) -> Replay:
    """Repeat the step and say what was found; nothing of the run is changed."""
    run_dir, step = Path(config.run_dir), plan(config)["step"]
    found = replay(run_dir, run_config(run_dir), step, best_device())
    console.say(f"step         {found.step}")
    console.say(f"loss         {found.recorded_loss} in the run, {found.loss} now")
    console.say(f"gradient     norm {found.recorded_grad_norm} in the run, {found.grad_norm} now")
    console.say(
        f"reproduced   {'yes' if found.reproduced else 'NO: the same batches and weights give other numbers'}"
    )
    if found.weights:
        console.say(f"weights      not finite before the step: {_some(found.weights)}")
    console.say(f"first at     {found.module or 'no module turns finite inputs into others'}")
    if found.samples:
        console.say(f"samples      {_some([sample['id'] or str(sample['index']) for sample in found.samples])}")
    if found.gradients:
        console.say(f"gradients    not finite: {_some(found.gradients)}")
    if console.verbose:
        console.say(str(asdict(found)))
    return found


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        ReplayConfig, run, plan, argv, command="replay", positional="run_dir",
        description="Repeat a step that pre-training refused because its loss or gradient was not finite.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
