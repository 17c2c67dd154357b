"""Export: the encoder of a pre-training run as one bundle, `usfm export runs/pretrain_tiny`."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.data.cleaning.config import prepared_as
from usfm.data.shard_reader import ShardReader
from usfm.data.stream import StreamConfig
from usfm.errors import CheckpointError
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder
from usfm.train.checkpoint import latest_checkpoint, read_state
from usfm.train.initial_weights import encoder_config_of, load_encoder
from usfm.train.rundir import read_config

__all__ = ["ExportConfig", "main", "plan", "run"]


class ExportConfig(Config):
    """What to export.

    Attributes:
        run_dir: a pre-training run.
        output: folder of the bundle; None = `encoder` in the run's folder.
        name: what the model is called when it is served.
    """

    run_dir: str = "runs/pretrain_tiny"
    output: str | None = None
    name: str = "encoder"

    @property
    def folder(self) -> Path:
        """Where the bundle goes."""
        return Path(self.output) if self.output else Path(self.run_dir) / "encoder"


def plan(config: ExportConfig) -> dict[str, Any]:
    """What would be written.

    Raises:
        CheckpointError: the run has no whole checkpoint.
    """
    found = latest_checkpoint(Path(config.run_dir))
    if found is None:
        raise CheckpointError(f"{config.run_dir} holds no whole checkpoint; run `usfm pretrain` first")
    return {"checkpoint": str(found), "samples": read_state(found)["samples"], "output": str(config.folder)}


def run(config: ExportConfig, console: Console) -> Path:
    """Write the bundle; its licences are those of every row that the run could draw."""
    planned, source = plan(config), Path(config.run_dir)
    encoder = Encoder(encoder_config_of(source))
    load_encoder(encoder, source)
    data = StreamConfig.build(read_config(source)["data"])
    reader = ShardReader(data.shards)
    files = reader.index.select(data.split, data.sampling.organs, data.sampling.exclude_organs)
    rows = reader.table([file for of_organ in files.values() for file in of_organ]).select(["source", "licence"])
    spec = BundleSpec(
        kind="embedding",
        name=config.name,
        encoder=encoder.config,
        canvas_px=data.canvas_px,
        **prepared_as(reader.index.prepare),
        licences=sorted(set(rows["licence"].to_pylist())),
        trained_on=dict(sorted(Counter(rows["source"].to_pylist()).items())),
        metrics={"pretraining_samples": planned["samples"]},
    )
    spec = save_bundle(config.folder, encoder, spec)
    console.say(f"export       {config.folder} (version {spec.version})")
    return config.folder


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        ExportConfig, run, plan, argv, positional="run_dir",
        description="Export the encoder of a pre-training run as one folder.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
