"""Probe an encoder: `usfm probe runs/pretrain_tiny`, and `... init=random seed=0` beside it.

Writes into `output`:
  probe.json        scores with intervals over patients, feature rank, what was probed on what
  predictions.npz   every scored item: id, patient, truth, prediction; the same items in the same order for every
                    encoder that is probed with the same shards, tasks and seed
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ray_jobs import job
from ray_jobs.console import Console
from usfm.data.left_out import left_out_line
from usfm.data.probe_set import ProbeSet, load_probe_set
from usfm.data.shards import ShardIndex
from usfm.errors import ConfigError
from usfm.metrics.intervals import Score, class_scores_difference, mean_score_difference
from usfm.metrics.rank import mean_cosine, rankme
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.rng import stream_key
from usfm.train.context import best_device
from usfm.train.initial_weights import encoder_config_of, load_encoder, weights_hash
from usfm.train.observe.config import ProbeConfig
from usfm.train.observe.features import extract
from usfm.train.observe.probing import ProbeResult, probe

__all__ = ["ProbeJobConfig", "differences", "main", "plan", "run"]

DOCUMENT, ITEMS = "probe.json", "predictions.npz"


class ProbeJobConfig(ProbeConfig):
    """What to probe on what; tasks and protocol as in `observe.probe` of a pre-training run.

    Attributes:
        source: a pre-training run, an exported encoder or a checkpoint; its newest weights are used.
        init: "source", or "random": an untrained encoder of the same shape.
        encoder: shape of a random encoder; None = that of `source`.
        seed: of a random encoder (a run that started with this seed started with these weights).
        draw_seed: of folds and intervals; keep it when encoders are compared.
        canvas_px: at least the stored longest side.
        output: folder; None = `probe` or `probe-random-SEED` in the folder of `source`.
        against: output folders of other encoders on the same items; paired differences (this one minus the other)
            are added.
    """

    source: str | None = None
    init: Literal["source", "random"] = "source"
    encoder: EncoderConfig | None = None
    seed: int = 0
    draw_seed: int = 0
    canvas_px: int = 256
    shards: str | None = "runs/shards"
    strengths: list[float] = [0.01, 0.1, 1.0]
    output: str | None = None
    against: list[str] = []

    @property
    def folder(self) -> Path:
        """Where the result goes.

        Raises:
            ConfigError: neither `output` nor `source` says where.
        """
        if self.output:
            return Path(self.output)
        if self.source is None:
            raise ConfigError("probe: no source and no output; name a run, or set output=FOLDER")
        name = "probe" if self.init == "source" else f"probe-random-{self.seed}"
        source = Path(self.source)
        return (source if source.is_dir() else source.parent) / name

    def shape(self) -> EncoderConfig:
        """The network that is probed.

        Raises:
            ConfigError: nothing says which.
        """
        if self.encoder is not None and self.init == "random":
            return self.encoder
        if self.source is None:
            raise ConfigError("probe: no source; name a run, or set init=random and encoder.size, encoder.img_px")
        return encoder_config_of(Path(self.source))


def _rows(config: ProbeJobConfig) -> ProbeSet:
    if config.shards is None:
        raise ConfigError("probe: set shards to the folder that `usfm ingest` wrote")
    return load_probe_set(
        config.shards, config.tasks, config.organ, config.protocol, config.rows_per_class, config.canvas_px
    )


def plan(config: ProbeJobConfig) -> dict[str, Any]:
    """Tasks, rows and protocol, and where the result would go."""
    rows, shape = _rows(config), config.shape()
    tasks = {
        task.name: {
            "rows": len(task.rows), "held_out": int(rows.held_out[task.rows].sum()), "protocol": task.protocol,
            "groups": len({rows.groups[n] for n in task.rows}), "left_out": task.left_out,
            "unlisted": task.unlisted,
        }
        for task in rows.tasks
    }  # fmt: skip
    return {"encoder": shape.model_dump(), "tasks": tasks, "output": str(config.folder)}


def run(config: ProbeJobConfig, console: Console) -> Path:
    """Probe, write, print; returns the output folder."""
    shape, rows, device = config.shape(), _rows(config), best_device()
    for task in rows.tasks:
        if said := left_out_line(task.name, {"all": task.unlisted}, "probe task"):
            console.warn(said)
    torch.manual_seed(stream_key(config.seed, "init"))  # as a pre-training run of this seed
    encoder = Encoder(shape)
    if config.init == "source":
        assert config.source is not None  # else shape() has raised
        load_encoder(encoder, Path(config.source))
    with console.stage("probe", len(rows), "images") as stage:
        features = extract(encoder.to(device), rows, device)
        stage.to(len(rows))
    results = probe(rows, features, config, config.draw_seed)
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / ITEMS, **_arrays(results))  # type: ignore[arg-type]
    document = {
        "source": config.source, "init": config.init, "seed": config.seed if config.init == "random" else None,
        "weights": weights_hash(Path(config.source or "")) if config.init == "source" else "random",
        "shards": config.shards, "fingerprint": ShardIndex.load(config.shards or "").fingerprint,
        "config": config.model_dump(mode="json"), "images": len(rows),
        "rank": {"rankme": rankme(features.pooled), "mean_cosine": mean_cosine(features.pooled),
                 "width": features.pooled.shape[1]},
        "tasks": {result.task.name: result.to_json() for result in results},
        "against": {other: differences(results, Path(other), config) for other in config.against},
    }  # fmt: skip
    (folder / DOCUMENT).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    _say(console, document, folder)
    return folder


def _arrays(results: Sequence[ProbeResult]) -> dict[str, np.ndarray[Any, Any]]:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for result in results:
        name = result.task.name
        arrays |= {f"{name}/id": np.array(result.ids), f"{name}/group": np.array(result.groups)}
        if result.task.kind == "classification":
            arrays[f"{name}/truth"] = result.truth
            arrays[f"{name}/classes"] = np.array(result.task.classes)
        arrays |= {f"{name}/{kind}": values for kind, values in result.items.items()}
    return arrays


def differences(
    results: Sequence[ProbeResult], other: Path, config: ProbeJobConfig
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of these results minus those of another probe of the same items, paired over patients.

    Raises:
        ConfigError: the other folder holds no probe, or one of other items.
    """
    try:
        with np.load(other / ITEMS) as stored:
            theirs = dict(stored)
    except OSError as error:
        raise ConfigError(f"against: {other} holds no {ITEMS}: {error}") from None
    made: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        name = result.task.name
        ids = theirs.get(f"{name}/id")
        if ids is None or ids.tolist() != result.ids:
            raise ConfigError(
                f"against: {other} scored other items of task {name}; probe both with the same shards, tasks, "
                "protocol and rows_per_class"
            )
        found: dict[str, Score] = {}
        for kind, values in result.items.items():
            before = theirs[f"{name}/{kind}"]
            if result.task.kind == "classification":
                scores = class_scores_difference(
                    values, before, result.truth, result.groups, len(result.task.classes), config.bootstrap,
                    config.draw_seed,
                )  # fmt: skip
                found |= {f"{kind}_{score}": value for score, value in scores.items()}
            else:
                found[kind] = mean_score_difference(
                    values, before, result.groups, config.bootstrap, config.draw_seed
                )
        made[name] = {score: asdict(value) for score, value in found.items()}
    return made


def _say(console: Console, document: Mapping[str, Any], folder: Path) -> None:
    lines = [
        (task, f"{made['scored']}/{made['scored_groups']}", *_shown(made["scores"]))
        for task, made in document["tasks"].items()
    ]
    title = f"{document['init']}: balanced accuracy or Dice, 95 % over patients ({folder})"
    console.table(title, ("task", "n/patients", "kNN", "linear"), lines)
    rank = document["rank"]
    console.say(f"RankMe {rank['rankme']:.1f} of {rank['width']}, mean cosine {rank['mean_cosine']:.3f}")
    for other, tasks in document["against"].items():
        gaps = [(task, *_shown(made)) for task, made in tasks.items()]
        console.table(f"minus {other}, paired", ("task", "kNN", "linear"), gaps)


def _shown(scores: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """The two scores of a task that a person looks at first; all others are in the document."""
    kinds = (("knn_balanced_accuracy",), ("linear_balanced_accuracy", "linear_dice"))
    found = [next((_value(scores[name]) for name in names if name in scores), "") for names in kinds]
    return found[0], found[1]


def _value(score: Mapping[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.2f}, {score['high']:.2f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    return job.main(
        ProbeJobConfig, run, plan, argv, command="probe", positional="source",
        description="Score the frozen features of an encoder by nearest neighbours and linear probes.",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
