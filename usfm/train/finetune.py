"""Fine-tuning on a fraction of the labels; the best step on the validation set is kept. A killed run goes on."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from usfm.data.cleaning.config import prepared_as
from usfm.data.fractions import fraction_rows
from usfm.data.labelled_set import LabelledSet
from usfm.data.shards import ShardIndex
from usfm.data.tasks import load_task
from usfm.data.trained_fold import fold_metrics
from usfm.errors import CheckpointError, ConfigError, NonFiniteLoss
from usfm.metrics.evaluation import HIGHER_IS_BETTER, METRIC
from usfm.models.bundle import BundleSpec, load_bundle, save_bundle
from usfm.models.network import TaskNetwork
from usfm.models.task_model import TaskModel
from usfm.rng import stream_key
from usfm.train.context import WorkerContext
from usfm.train.determined import determined
from usfm.train.durable import LEFTOVER, publish_folder
from usfm.train.finetune_config import SCRATCH, FinetuneConfig
from usfm.train.finetune_loss import TaskLoss, target_spread
from usfm.train.finetune_network import first_network
from usfm.train.finetune_state import RESULT, Middle, RunState
from usfm.train.finetune_views import ImageViews, Views
from usfm.train.inheritance import inherited, labels_of_tested
from usfm.train.journal import Journal
from usfm.train.optim import learning_rate, make_optimizer, set_learning_rate

__all__ = ["finetune"]

Chosen = npt.NDArray[np.int64]


def finetune(config: FinetuneConfig, context: WorkerContext, views: Views | None = None) -> dict[str, Any]:
    """Train, keep the best step by the validation score, score it once on the test set.

    Writes, from rank 0, `best/` (a bundle with `evaluation.json`) and `result.json` into the run's folder, and
    meanwhile `state/`, from which the same call goes on after an interruption.

    Args:
        config: of the run.
        context: this worker.
        views: what to learn from; None = the images of the task.

    Returns:
        metric, value (test), val_value, train_items, train_groups, seconds, bundle.

    Raises:
        ConfigError: settings that do not fit together, or a head or network that computes what torch has no
            deterministic algorithm for on a CPU.
        DataError: as of `load_task`, or targets that are all the same.
        NonFiniteLoss: the loss or its gradient is no number; the step is not taken.
        NonFiniteAnswer: the network answers an item that it is scored on with NaN or infinity.
        CheckpointError: the middle of the run on disk is damaged, or workers see different ones.
    """
    began = time.perf_counter()
    if config.batch_size % context.world_size:
        raise ConfigError(f"batch_size {config.batch_size} is not a multiple of the {context.world_size} workers")
    sets = load_task(config.shards, config.task)
    train = sets["train"]
    chosen = fraction_rows(train, config.task, config.fraction, config.seed)
    model = first_network(config)
    if config.task.kind == "regression":
        model.fit_targets(*target_spread(train, chosen, config))
    inputs = config.inputs()
    spec = _spec(config, model, train, chosen, inputs)
    views = views or ImageViews(config, sets, chosen, model.img_px, context)
    loss_of = TaskLoss(config, train, chosen, context.device)
    state = RunState(config, inputs)
    middle = state.middle
    state.load_model(model)
    optimizer = make_optimizer(model, config.optim, config.layer_decay)
    wrapped = context.wrap(model)
    state.load_optimizer(optimizer)
    _require_together(middle.step, context)
    folder, best, spent = Path(config.run_dir), middle.best, middle.seconds
    sign = 1 if HIGHER_IS_BETTER[METRIC[config.task.kind]] else -1
    result: dict[str, Any] = {}
    with Journal(folder, middle.step, writes=context.rank == 0) as journal:
        for step in range(middle.step, config.steps):
            seen, total = step * config.batch_size, config.steps * config.batch_size
            set_learning_rate(optimizer, learning_rate(config.optim, config.batch_size, seen, total))
            loss = _step(config, context, model, wrapped, optimizer, views, loss_of, step)
            last = step + 1 == config.steps
            if (step + 1) % config.eval_every and not last:
                continue
            score = views.score(model, "val", full=False).value
            if best is None or sign * score > sign * best:
                best = score
                if context.rank == 0:
                    _keep(folder / "best", model, spec, {f"val_{METRIC[config.task.kind]}": score})
            seconds = spent + time.perf_counter() - began
            if last:
                # before the last report: a scheduler may end the trial while it is being made
                result = _result(config, context, views, train, chosen, best, inputs, seconds)
            row = {"train_loss": loss, "val_value": score, "lr": optimizer.param_groups[0]["lr"]}
            journal.write(step + 1, row)
            if context.rank == 0 and not last:
                journal.settle()
                state.save(model, optimizer, Middle(step + 1, best, seconds))
            context.report({"step": step + 1, **row, "best_val_value": best})
    if context.rank == 0:
        state.clear()
    return result


def _require_together(step: int, context: WorkerContext) -> None:
    """Workers that see the run's folder differently (a cache of a network file system) would train on nonsense."""
    total = int(context.sum(torch.tensor(float(step), device=context.device)))
    if total != step * context.world_size:
        raise CheckpointError(
            f"worker {context.rank} would go on from step {step}, others from another one; all of them have to see "
            "the same run_dir. Start the same command again"
        )


def _step(
    config: FinetuneConfig,
    context: WorkerContext,
    model: TaskNetwork,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    views: Views,
    loss_of: TaskLoss,
    step: int,
) -> float:
    """One optimizer step; the batch is a function of (seed, step), each worker takes its part of it."""
    wrapped.train()
    if config.freeze_encoder and isinstance(model, TaskModel):
        model.encoder.eval()  # what does not learn is not disturbed either
    batch = views.batch(step)
    torch.manual_seed(stream_key(config.seed, "finetune step", step, context.rank))
    # on a GPU torch has no such algorithms for the pooling, resizing and losses of heads
    with determined(context.device.type == "cpu", context.device, "use another head or network, or train on a GPU"):
        with torch.autocast(context.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            answer, auxiliary = views.answer(wrapped, batch)
        further = model.auxiliary_loss([one.float() for one in auxiliary], batch.target)
        loss = loss_of(answer.float(), batch.target) + further
        torch.autograd.backward(loss)
    total = context.sum(loss.detach().clone()) / context.world_size
    if not torch.isfinite(total):
        raise NonFiniteLoss(
            f"fine-tuning step {step}: loss {float(total)}; the step was not taken. Rows: {batch.ids}"
        )
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or torch.inf)
    if not torch.isfinite(norm):  # a finite loss can have such a gradient; its step would make every weight NaN
        raise NonFiniteLoss(
            f"fine-tuning step {step}: gradient norm {float(norm)}; the step was not taken. Rows: {batch.ids}"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(total)


def _result(
    config: FinetuneConfig,
    context: WorkerContext,
    views: Views,
    train: LabelledSet,
    chosen: Chosen,
    best: float,
    inputs: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Score the kept bundle on the test set and write result.json; only rank 0 does, the others know the rest."""
    folder = Path(config.run_dir)
    result: dict[str, Any] = {
        "metric": METRIC[config.task.kind],
        "val_value": best,
        "train_items": len(chosen),
        "train_groups": len({train.groups[n] for n in chosen}),
        "bundle": str(folder / "best"),
        "inputs": inputs,
    }
    if context.rank:
        return result
    began = time.perf_counter()
    kept, _ = load_bundle(folder / "best", context.device)
    tested = views.score(kept, "test", full=True)
    (folder / "best" / "evaluation.json").write_text(json.dumps(tested.to_json(), indent=1) + "\n", "utf-8")
    result |= {"value": tested.value, "seconds": seconds + time.perf_counter() - began}
    partial = folder / f"{RESULT}.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    os.replace(partial, folder / RESULT)
    return result


def _spec(
    config: FinetuneConfig,
    model: TaskNetwork,
    data: LabelledSet,
    chosen: Chosen,
    inputs: dict[str, str],
) -> BundleSpec:
    """What the run's bundle says of itself, without its score."""
    task, used = config.task, [data.sources[n] for n in chosen]
    before = inherited(None if config.init == SCRATCH else Path(config.init))
    return BundleSpec(
        kind=task.kind,
        name=task.name,
        classes=task.class_names,
        encoder=model.encoder.config if isinstance(model, TaskModel) else None,
        network=config.network,
        head=config.head.resolved(task.kind) if isinstance(model, TaskModel) else "",
        img_px=model.img_px,
        unit=task.unit,
        target=task.target,
        scales_with_size=task.scales_with_size,
        inference=config.inference,
        canvas_px=task.canvas_px,
        **prepared_as(ShardIndex.load(config.shards).prepare),
        licences=sorted({*before.licences, *(data.licences[n] for n in chosen)}),
        trained_on={source: used.count(source) for source in sorted(set(used))},
        metrics={
            "fraction": config.fraction,
            "init": Path(config.init).name,
            **_tested(config, inputs["shards"]),
        },
    )


def _tested(config: FinetuneConfig, fingerprint: str) -> dict[str, Any]:
    """Which patients the bundle may be tested on: that depends on all rows, and shards may be ingested anew.

    Args:
        config: of the run.
        fingerprint: of the shards that it is trained on.
    """
    task, kept = config.task, {"shards_fingerprint": fingerprint, "split_by": config.task.split_by}
    before = labels_of_tested(config.init, task, config.shards)
    return {**fold_metrics(config.shards, task), **kept, "labels_before": before}


def _keep(folder: Path, model: nn.Module, spec: BundleSpec, scores: dict[str, float]) -> None:
    """Replace the best bundle."""
    spec = spec.model_copy(update={"metrics": {**scores, **spec.metrics}})
    partial = folder.with_name(f".{folder.name}{LEFTOVER}")
    shutil.rmtree(partial, ignore_errors=True)
    save_bundle(partial, model, spec)
    publish_folder(partial, folder)
