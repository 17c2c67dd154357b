"""Fine-tuning of an encoder and a head on a fraction of the labels; the best step on the validation set is kept."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from usfm.config import Config
from usfm.data.augment import CropConfig, crop_boxes, resample
from usfm.data.cleaning.config import prepared_as
from usfm.data.shards import ShardIndex
from usfm.data.tasks import LabelledSet, TaskConfig, label_fraction, load_task
from usfm.errors import ConfigError, NonFiniteLoss
from usfm.losses.segmentation import segmentation_loss
from usfm.metrics.evaluation import METRIC, evaluate
from usfm.models.bundle import BundleSpec, load_bundle, save_bundle
from usfm.models.encoder import EncoderConfig
from usfm.models.task_model import TaskModel
from usfm.rng import generator, stream_key
from usfm.train.context import WorkerContext
from usfm.train.inheritance import Inheritance, inherited
from usfm.train.initial_weights import encoder_config_of, load_encoder, weights_hash
from usfm.train.journal import Journal
from usfm.train.optim import OptimConfig, learning_rate, make_optimizer, set_learning_rate

__all__ = ["SCRATCH", "FinetuneConfig", "finetune"]

SCRATCH = "scratch"


class FinetuneConfig(Config):
    """One fine-tuning run.

    Attributes:
        run_dir: folder of the run.
        shards: folder that `usfm ingest` wrote.
        task: rows and classes.
        init: "scratch", or what to start from: a pre-training run, a checkpoint, an exported encoder, or a weight
            file of a known layout (`usfm weights`).
        encoder: network; None = that of `init`, of which only the image side may differ. Needed for scratch.
        fraction: share of the training patients whose labels are used.
        seed: of the fraction, the head's start and the batches.
        steps: optimizer steps, the same for every fraction.
        batch_size: images per step, over all workers.
        eval_every: steps between scores on the validation set.
        crop: training views.
        optim: optimizer and schedule.
        layer_decay: rate of block k of n is scaled by layer_decay ** (n + 1 - k); the head has scale 1.
        label_smoothing: for classification.
        freeze_encoder: train the head alone.
    """

    run_dir: str = "runs/finetune"
    shards: str = "runs/shards"
    task: TaskConfig
    init: str = SCRATCH
    encoder: EncoderConfig | None = None
    fraction: float = Field(default=1.0, gt=0, le=1)
    seed: int = 0
    steps: int = Field(default=200, ge=1)
    batch_size: int = Field(default=16, ge=1)
    eval_every: int = Field(default=20, ge=1)
    crop: CropConfig = CropConfig()
    optim: OptimConfig = OptimConfig(lr=1.25e-3)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    freeze_encoder: bool = False

    def resolved_encoder(self) -> EncoderConfig:
        """The network to build.

        Raises:
            ConfigError: scratch without `encoder`.
            CheckpointError: `init` is neither a run nor a bundle.
        """
        if self.init == SCRATCH:
            if self.encoder is None:
                raise ConfigError(
                    "init=scratch needs the encoder to build, e.g. encoder.size=tiny encoder.img_px=96"
                )
            return self.encoder
        theirs = encoder_config_of(Path(self.init))
        ours = self.encoder or theirs
        for key in ("size", "patch_px", "positions", "final_norm", "channels", "mean", "std"):
            if getattr(ours, key) != getattr(theirs, key):
                raise ConfigError(
                    f"encoder.{key}={getattr(ours, key)} but {self.init} was trained with {getattr(theirs, key)}; "
                    "leave `encoder` out, or give the same value"
                )
        return ours

    def inputs(self) -> dict[str, str]:
        """What the result depends on beside the config: fingerprint of the shards, hash of the first weights.

        Raises:
            ShardError: no shards there.
            CheckpointError: no whole checkpoint to start from.
        """
        first = SCRATCH if self.init == SCRATCH else weights_hash(Path(self.init))
        return {"shards": ShardIndex.load(self.shards).fingerprint, "init": first}


def finetune(config: FinetuneConfig, context: WorkerContext) -> dict[str, Any]:
    """Train, keep the best step by the validation score, score it once on the test set.

    Writes, from rank 0, `best/` (a bundle with `evaluation.json`) and `result.json` into the run's folder.

    Returns:
        metric, value (test), val_value, train_items, train_groups, seconds, bundle.
    """
    began = time.perf_counter()
    sets = load_task(config.shards, config.task)
    train = sets["train"]
    chosen = label_fraction(train.groups, _strata(train, config.task), config.fraction, config.seed).nonzero()[0]
    if config.batch_size % context.world_size:
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of the {context.world_size} workers")
    encoder = config.resolved_encoder()
    torch.manual_seed(stream_key(config.seed, "init", config.task.name))
    model = TaskModel(encoder, config.task.kind, len(config.task.class_names))
    if config.init != SCRATCH:
        load_encoder(model.encoder, Path(config.init))
    before = inherited(None if config.init == SCRATCH else Path(config.init))
    model.encoder.requires_grad_(not config.freeze_encoder)
    optimizer = make_optimizer(model, config.optim, config.layer_decay)
    wrapped = context.wrap(model)
    folder, best = Path(config.run_dir), -1.0
    result: dict[str, Any] = {}
    with Journal(folder, writes=context.rank == 0) as journal:
        for step in range(config.steps):
            seen, total = step * config.batch_size, config.steps * config.batch_size
            set_learning_rate(optimizer, learning_rate(config.optim, config.batch_size, seen, total))
            loss = _step(config, context, wrapped, optimizer, train, chosen, step, encoder.img_px)
            last = step + 1 == config.steps
            if (step + 1) % config.eval_every and not last:
                continue
            score = evaluate(model, sets["val"], config.task, encoder.img_px, context.device).value
            if score > best and context.rank == 0:
                _keep(folder / "best", model, _spec(config, encoder, train, chosen, before, score))
            best = max(best, score)
            if last:
                # before the last report: a scheduler may end the trial while it is being made
                result = _result(config, context, sets, chosen, best, began)
            row = {"train_loss": loss, "val_value": score, "lr": optimizer.param_groups[0]["lr"]}
            journal.write(step + 1, row)
            context.report({"step": step + 1, **row, "best_val_value": best})
    return result


def _result(
    config: FinetuneConfig,
    context: WorkerContext,
    sets: dict[str, LabelledSet],
    chosen: Any,
    best: float,
    began: float,
) -> dict[str, Any]:
    """Score the kept bundle on the test set and write result.json; only rank 0 does, the others know the rest."""
    folder, train = Path(config.run_dir), sets["train"]
    result: dict[str, Any] = {
        "metric": METRIC[config.task.kind],
        "val_value": best,
        "train_items": len(chosen),
        "train_groups": len({train.groups[n] for n in chosen}),
        "bundle": str(folder / "best"),
        "inputs": config.inputs(),
    }
    if context.rank:
        return result
    kept, spec = load_bundle(folder / "best", context.device)
    tested = evaluate(kept, sets["test"], config.task, spec.img_px, context.device)
    (folder / "best" / "evaluation.json").write_text(json.dumps(tested.to_json(), indent=1) + "\n", "utf-8")
    result |= {"value": tested.value, "seconds": time.perf_counter() - began}
    partial = folder / "result.json.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    os.replace(partial, folder / "result.json")
    return result


def _step(
    config: FinetuneConfig,
    context: WorkerContext,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: LabelledSet,
    chosen: Any,
    step: int,
    px: int,
) -> float:
    """One optimizer step; the batch is a function of (seed, step), each worker takes its part of it."""
    model.train()
    position = step * config.batch_size + torch.arange(config.batch_size)
    passes = [
        generator(config.seed, "finetune order", int(p)).permutation(chosen)
        for p in range(int(position[0]) // len(chosen), int(position[-1]) // len(chosen) + 1)
    ]
    first = int(position[0]) // len(chosen)
    rows = torch.tensor([int(passes[int(p) // len(chosen) - first][int(p) % len(chosen)]) for p in position])
    mine = slice(context.rank, None, context.world_size)
    rows, position = rows[mine], position[mine]
    torch.manual_seed(stream_key(config.seed, "finetune step", step, context.rank))
    height, width = torch.from_numpy(data.height)[rows], torch.from_numpy(data.width)[rows]
    boxes, flip = crop_boxes(position, height, width, config.crop, config.seed)
    boxes, flip = boxes.to(context.device), flip.to(context.device)
    images = resample(torch.from_numpy(data.image[rows.numpy()]).to(context.device), boxes, px, flip)
    logits = model(images)
    if config.task.kind == "segmentation":
        masks = torch.from_numpy(data.mask[rows.numpy()]).to(context.device)
        loss = segmentation_loss(logits, resample(masks, boxes, px, flip, nearest=True)[:, 0].long())
    else:
        labels = torch.from_numpy(data.label)[rows].to(context.device)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
    torch.autograd.backward(loss)
    total = context.sum(loss.detach().clone()) / context.world_size
    if not torch.isfinite(total):
        ids = [data.ids[int(r)] for r in rows]
        raise NonFiniteLoss(f"fine-tuning step {step}: loss {float(total)}; the step was not taken. Rows: {ids}")
    nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or torch.inf)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def _strata(data: LabelledSet, task: TaskConfig) -> list[str]:
    return [str(k) for k in data.label] if task.kind == "classification" else data.sources


def _spec(
    config: FinetuneConfig,
    encoder: EncoderConfig,
    data: LabelledSet,
    chosen: Any,
    before: Inheritance,
    score: float,
) -> BundleSpec:
    used = [data.sources[n] for n in chosen]
    return BundleSpec(
        kind=config.task.kind,
        name=config.task.name,
        classes=config.task.class_names,
        encoder=encoder,
        canvas_px=config.task.canvas_px,
        **prepared_as(ShardIndex.load(config.shards).prepare),
        licences=sorted({*before.licences, *(data.licences[n] for n in chosen)}),
        trained_on={source: used.count(source) for source in sorted(set(used))},
        metrics={
            f"val_{METRIC[config.task.kind]}": score,
            "fraction": config.fraction,
            "init": Path(config.init).name,
        },
    )


def _keep(folder: Path, model: nn.Module, spec: BundleSpec) -> None:
    """Replace the best bundle; it is whole under its name, or for a moment absent, never half written."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_bundle(partial, model, spec)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
