"""Look into a weight file, `usfm weights FILE`: what became of each key, and the encoder as a bundle if wanted."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_jobs import job
from ray_jobs.console import Console
from usfm.config import Config
from usfm.errors import ConfigError
from usfm.models.bundle import BundleSpec, save_bundle
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights.fit import fit_weights, source_normalisation
from usfm.models.weights.layouts import LAYOUTS
from usfm.models.weights.read import SourceWeights
from usfm.models.weights.released import save_released
from usfm.models.weights.report import WeightsReport
from usfm.train.inheritance import labels_apart_on, labels_behind
from usfm.train.initial_weights import read_source

__all__ = ["UNEXPLAINED", "WeightsConfig", "main", "plan", "run"]

UNEXPLAINED = 1  # exit status


class WeightsConfig(Config):
    """What to look at, and what to make of it.

    Attributes:
        source: a weight file (.safetensors, .pth, .pt, .bin, .ckpt), a run, a checkpoint, or a bundle.
        output: folder for the encoder as a bundle; None = only look.
        released: file (.pth) to write in the layout of the authors of USFM; None = do not.
        normalisation: how the model's input was normalised: imagenet, half (0.5), or equal (as here); None = what
            the layout is known to use.
        channels: of the encoder that is written: 1, equal on grey images, or 3 as in the file; None = 1 for a
            bundle, the file's own for `released`.
        img_px: image side of the encoder that is written; None = the file's.
        name: what the bundle is called when it is served.
        licence: of the weights, for the bundle; "" = not stated.
    """

    source: str = "runs/pretrain_tiny/encoder"
    output: str | None = None
    released: str | None = None
    normalisation: str | None = None
    channels: int | None = None
    img_px: int | None = None
    name: str = "encoder"
    licence: str = ""


def plan(config: WeightsConfig) -> dict[str, Any]:
    """What the file is; nothing is written.

    Raises:
        CheckpointError: it cannot be read.
    """
    source = read_source(Path(config.source))
    report = source.report
    return {
        **_facts(source),
        "loaded": report.count("loaded"),
        "dropped": report.count("dropped"),
        "unexplained": len(report.problems),
        "output": config.output,
        "released": config.released,
    }


def run(config: WeightsConfig, console: Console) -> WeightsReport:
    """Print every key's fate; write the bundle and the authors' layout if they are wanted and all is explained.

    Raises:
        CheckpointError: the file cannot be read.
        ConfigError: a bundle is wanted and how the input was normalised is not known.
    """
    source = read_source(Path(config.source))
    report = source.report
    width = max(len(key.name) for key in report.keys)
    for key in report.keys:  # a line each, however narrow the terminal: people search in it
        console.say(f"{key.fate:<11} {key.name:<{width}}  {_shape(key.shape):<18} {key.note}")
    for name, value in _facts(source).items():
        console.say(f"{name:<14} {value}")
    counts = [f"{report.count(fate)} {fate}" for fate in ("loaded", "dropped", "missing", "unexpected")]
    console.say(f"{'keys':<14} {', '.join(counts)}")
    if report.problems:
        console.error(f"{len(report.problems)} keys are unexplained; these weights are not used")
        return report
    if config.output:
        encoder = _encoder(source, config, config.channels or 1)
        licences = [config.licence] if config.licence else []
        spec = BundleSpec(
            kind="embedding", name=config.name, encoder=encoder.config, licences=licences,
            labels_behind=labels_behind([config.source]), labels_apart_on=labels_apart_on(config.source),
        )  # fmt: skip
        spec = save_bundle(Path(config.output), encoder, spec)
        console.say(f"{'bundle':<14} {config.output} (version {spec.version})")
    if config.released:
        save_released(_encoder(source, config, config.channels or source.config.channels), Path(config.released))
        console.say(f"{'released':<14} {config.released}")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    reports: list[WeightsReport] = []
    status = job.main(
        WeightsConfig,
        lambda config, console: reports.append(run(config, console)),
        plan,
        argv,
        command="weights",
        positional="source",
        description="Explain every key of a weight file. Exit status: 0 all are explained, 1 some are not, 2 the "
        "file cannot be read.",
    )
    return UNEXPLAINED if any(report.problems for report in reports) else status


def _facts(source: SourceWeights) -> dict[str, Any]:
    """The network in a few lines."""
    config, report = source.config, source.report
    known = " (the file that the authors of USFM released)" if report.is_authors_file else ""
    try:
        mean, std = source_normalisation(source)
        normalisation = f"mean {_numbers(mean)}, deviation {_numbers(std)}"
    except ConfigError:
        normalisation = "not known from the keys; say normalisation=imagenet, half or equal to convert"
    return {
        "layout": f"{report.layout}: {LAYOUTS[report.layout].title}",
        "sha256": report.sha256 + known,
        "size": f"{config.size}, {sum(tensor.numel() for tensor in source.state.values()):,} parameters",
        "input": f"{config.img_px} px, patches of {config.patch_px} px, {config.channels} channels",
        "positions": config.positions,
        "layer scale": "yes" if config.layer_scale else "no",
        "normalisation": normalisation,
    }


def _encoder(source: SourceWeights, config: WeightsConfig, channels: int) -> Encoder:
    """The encoder that is wanted, filled."""
    values: dict[str, Any] = {"channels": channels}
    if channels == source.config.channels == 3:
        mean, std = source_normalisation(source, config.normalisation)
        values |= {"channel_mean": mean, "channel_std": std}
    if config.img_px is not None:
        values["img_px"] = config.img_px
    target = EncoderConfig.build(source.config.model_dump() | values)
    encoder = Encoder(target).eval()
    encoder.load_state_dict(fit_weights(source, target, config.normalisation))
    return encoder


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else " x ".join(map(str, shape)) or "scalar"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


if __name__ == "__main__":
    sys.exit(main())
