"""Export: the encoder of a pre-training run as one bundle with a model card, `usfm export runs/pretrain_tiny`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.data.cleaning.config import prepared_as
from usfm.data.shards import ShardIndex
from usfm.data.stream import StreamConfig
from usfm.errors import CheckpointError
from usfm.models.bundle import SPEC, WEIGHTS, BundleSpec, save_bundle
from usfm.models.encoder import Encoder
from usfm.models.onnx_file import write_onnx
from usfm.report.model_card import RunRecord, model_card
from usfm.train.checkpoint import latest_checkpoint, read_state
from usfm.train.inheritance import inherited, labels_apart_on, labels_behind, ledger_of
from usfm.train.initial_weights import encoder_config_of, load_encoder
from usfm.train.journal import rows_until
from usfm.train.rundir import read_config

__all__ = ["ExportConfig", "main", "plan", "run"]

CARD = "README.md"
ONNX = "model.onnx"


class ExportConfig(Config):
    """What to export.

    Attributes:
        run_dir: a pre-training run.
        output: folder of the bundle; None = `encoder` in the run's folder.
        name: what the model is called when it is served.
        averaged: of a run of the `teacher` objective, its averaged encoder; False = the trained one.
        onnx: also write model.onnx (grey values in [0, 1] to tokens, any batch), checked against torch.
    """

    run_dir: str = "runs/pretrain_tiny"
    output: str | None = None
    name: str = "encoder"
    onnx: bool = False
    averaged: bool = False

    @property
    def folder(self) -> Path:
        """Where the bundle goes."""
        return Path(self.output) if self.output else Path(self.run_dir) / "encoder"


def plan(config: ExportConfig) -> dict[str, Any]:
    """What would be written.

    Raises:
        CheckpointError: the run has no whole checkpoint.
    """
    found = _checkpoint(config)
    files = [WEIGHTS, SPEC, CARD, *([ONNX] if config.onnx else [])]
    samples = read_state(found)["samples"]
    return {"checkpoint": str(found), "samples": samples, "output": str(config.folder), "files": files}


def _checkpoint(config: ExportConfig) -> Path:
    found = latest_checkpoint(Path(config.run_dir))
    if found is None:
        raise CheckpointError(f"{config.run_dir} holds no whole checkpoint; run `usfm pretrain` first")
    return found


def run(config: ExportConfig, console: Console) -> Path:
    """Write the bundle and its model card.

    Licences are those of every row that the run, and the runs from which it began, could draw. Weights and numbers
    are those of one checkpoint, while the run may go on.

    Raises:
        CheckpointError: the run has no whole checkpoint, or the ONNX file differs from torch.
        EnvironmentProblem: the packages for ONNX are missing.
    """
    source, checkpoint = Path(config.run_dir), _checkpoint(config)
    state = read_state(checkpoint)
    encoder = Encoder(encoder_config_of(checkpoint))
    load_encoder(encoder, checkpoint, config.averaged)
    data = StreamConfig.build(read_config(source)["data"])
    items, whole = ledger_of(data), inherited(checkpoint)
    spec = BundleSpec(
        kind="embedding",
        name=config.name,
        encoder=encoder.config,
        canvas_px=data.canvas_px,
        **prepared_as(ShardIndex.load(data.shards).prepare),
        licences=whole.licences,
        trained_on=whole.trained_on,
        labels_behind=labels_behind([str(checkpoint)]),
        labels_apart_on=labels_apart_on(str(checkpoint)),
        metrics={"pretraining_samples": state["samples"]},
    )
    spec = save_bundle(config.folder, encoder, spec)
    difference = None
    if config.onnx:
        difference = write_onnx(encoder, config.folder / ONNX)
        console.say(f"onnx         {config.folder / ONNX} (largest difference from torch {difference:.1e})")
    record = RunRecord(
        config=read_config(source),
        plan=_document(source / "plan.json"),
        environment=_document(source / "environment.json"),
        rows=list(rows_until(source, state["step"], state.get("unwritten", ()))),
        items=items,
        begun_from=whole.begun_from[1:],
        parameters=sum(p.numel() for p in encoder.parameters()),
        onnx_difference=difference,
    )
    (config.folder / CARD).write_text(model_card(spec, record), encoding="utf-8")
    console.say(f"export       {config.folder} (version {spec.version})")
    return config.folder


def _document(path: Path) -> dict[str, Any]:
    """A JSON file of the run; {} where there is none."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        ExportConfig, run, plan, argv, command="export", positional="run_dir",
        description="Export the encoder of a pre-training run as one folder.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
