"""What a person sees of a pre-training run: one progress line, and every problem with a checkpoint."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_jobs.console import Console, following
from usfm.train.checkpoint_writer import PROBLEMS
from usfm.train.journal import last_row
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan

__all__ = ["Problems", "following_run", "progress_note"]

LOSSES = ("spatial", "frequency", "latent")
"""Names of loss terms that the progress line shows."""


@contextmanager
def following_run(
    console: Console, run_dir: Path, derived: PretrainPlan, config: PretrainConfig, start: int
) -> Iterator[None]:
    """Follow the run's journal while `fit` blocks."""
    before = last_row(run_dir)  # of an earlier process, perhaps of a step that will be done again
    with console.stage("pretrain", derived.total_samples, "images") as stage:
        stage.resume(start * config.batch.global_size)
        stage.note("workers are starting")
        problems = Problems(run_dir)

        def show() -> None:
            if (row := last_row(run_dir)) and row != before:
                stage.says_rate(f"{row['images_per_s']:,.0f} images/s")
                stage.note(progress_note(row, config.epochs))
                stage.to(row["step"] * config.batch.global_size)
            else:
                stage.to(stage.count)  # a line now and then, so that nobody takes the start for a standstill
            for text in problems.new():
                console.warn(f"checkpoint {text}")

        with following(show):
            yield


def progress_note(row: Mapping[str, Any], epochs: int) -> str:
    """What a person wants to see of a row of metrics beside count, rate and time left."""
    said = ["REFUSED"] if row["refused"] else []
    said += [f"epoch {row['epoch']:.2f}/{epochs}", f"loss {row['loss']:.4f}", f"wait {row['data_wait']:.0%}"]
    said += [f"{name} {row[name]:.3f}" for name in LOSSES if name in row]
    return "  ".join([*said, f"lr {row['lr']:.1e}"])


class Problems:
    """What workers have written down about checkpoints since this job began."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / PROBLEMS
        self._seen = self._path.stat().st_size if self._path.exists() else 0

    def new(self) -> list[str]:
        """Problems since the last call, one line each; nothing while the storage is away."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._seen)
                whole = file.read().rpartition(b"\n")[0]
        except OSError:
            return []
        self._seen += len(whole) + bool(whole)
        rows = [json.loads(line) for line in whole.splitlines()]
        return [" ".join(str(row[k]) for k in ("step", "problem") if row[k] is not None) for row in rows]
