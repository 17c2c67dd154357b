"""Take a refused step apart: repeat it from what was kept, and find where the first NaN or infinity arises."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from usfm.data.augment import random_crops
from usfm.errors import CheckpointError
from usfm.models.objectives import OBJECTIVES
from usfm.train.checkpoint import MODEL, require_fit
from usfm.train.determined import determined
from usfm.train.pretrain_plan import PretrainConfig, uses_bf16
from usfm.train.refused import REFUSED, lane_seed, refused_folder

__all__ = ["Replay", "refused_steps", "replay"]


@dataclass(frozen=True)
class Replay:
    """What came of repeating a refused step.

    Attributes:
        step: 0-based.
        recorded_loss: mean loss of the step as the run saw it.
        recorded_grad_norm: gradient norm as the run saw it, before clipping.
        loss: now.
        grad_norm: now.
        reproduced: what was not finite is not finite again, and what was finite is the same but for rounding.
        samples: of those whose own loss is not finite: index, id, lane.
        module: the first module that turned finite inputs into an output that is not, "" = none did.
        weights: parameters that are not finite before the step.
        gradients: parameters whose gradient is not finite.
    """

    step: int
    recorded_loss: float
    recorded_grad_norm: float
    loss: float
    grad_norm: float
    reproduced: bool
    samples: list[dict[str, Any]]
    module: str
    weights: list[str]
    gradients: list[str]


def refused_steps(run_dir: Path) -> list[int]:
    """Steps of a run that were refused and kept, in order."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run_dir / REFUSED).glob("step-*"))


def replay(run_dir: Path, config: PretrainConfig, step: int, device: torch.device) -> Replay:
    """Repeat a refused step on one device, all workers' micro-batches one after the other.

    Args:
        run_dir: folder of the run.
        config: of the run.
        step: 0-based.
        device: where; on the kind of device that the run used, numbers are the same but for the order of sums.

    Raises:
        CheckpointError: the step was not kept, or not whole.
    """
    folder = refused_folder(run_dir, step)
    records, batches = _kept(folder)
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed)
    weights = load_file(folder / MODEL)
    require_fit(folder, objective, weights, "was config.yaml changed since?")
    objective.load_state_dict(weights)
    objective.to(device).train()
    bad_weights = [name for name, p in objective.named_parameters() if not torch.isfinite(p).all()]
    ids = {i: name for r in records for i, name in zip(r["index"], r["ids"], strict=True)}
    lanes, total, samples, found = sorted(batches), 0.0, [], _FirstBad()
    with found.watching(objective), determined(config.speed.deterministic, device):
        for lane in lanes:
            torch.manual_seed(lane_seed(config.seed, step, lane))
            batch = {name: tensor.to(device) for name, tensor in batches[lane].items()}
            images = random_crops(batch, config.encoder.img_px, config.crop, config.seed)
            with torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device)):
                out = objective(images, batch["index"])
            (out.loss / len(lanes)).backward()
            total += float(out.loss.detach()) / len(lanes)
            for place in (~torch.isfinite(out.per_sample)).nonzero()[:, 0].tolist():
                index = int(batch["index"][place])
                samples.append({"index": index, "id": ids[index], "lane": lane})
    grads = {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}
    norm = float(nn.utils.get_total_norm(list(grads.values())))
    recorded = float(records[0]["loss"]), float(records[0]["grad_norm"])
    return Replay(
        step=step, recorded_loss=recorded[0], recorded_grad_norm=recorded[1], loss=total, grad_norm=norm,
        reproduced=_alike(recorded[0], total) and _alike(recorded[1], norm),
        samples=samples, module=found.name, weights=bad_weights,
        gradients=[name for name, grad in grads.items() if not torch.isfinite(grad).all()],
    )  # fmt: skip


def _kept(folder: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, torch.Tensor]]]:
    """Records of all workers, and batches by lane."""
    try:
        first = json.loads((folder / "rank-0.json").read_text(encoding="utf-8"))
        # of an earlier try with more workers, files of higher ranks may still be there
        workers = range(int(first["world_size"]))
        there = [path for rank in workers if (path := folder / f"rank-{rank}.json").exists()]
        records = [json.loads(path.read_text(encoding="utf-8")) for path in there]
        batches: dict[int, dict[str, torch.Tensor]] = {}
        for record in records:
            tensors = load_file(folder / f"rank-{record['rank']}.safetensors")
            for key, tensor in tensors.items():
                lane, _, name = key.partition(".")
                batches.setdefault(int(lane), {})[name] = tensor
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} holds no whole refused step: {error}") from None
    if len(records) != len(workers):
        raise CheckpointError(
            f"{folder} holds {len(records)} of {len(workers)} workers' batches; copy all rank-* files"
        )
    if not (folder / MODEL).exists():
        raise CheckpointError(f"{folder} has no weights: those of the last refused steps alone are kept")
    return records, batches


class _FirstBad:
    """Finds the first module whose output is not finite although its inputs are."""

    def __init__(self) -> None:
        self.name = ""

    def watching(self, model: nn.Module) -> "_Hooks":
        return _Hooks([m.register_forward_hook(self._hook(name)) for name, m in model.named_modules() if name])

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_: nn.Module, inputs: Any, output: Any) -> None:
            if not self.name and not _finite(output) and _finite(inputs):
                self.name = name

        return look


class _Hooks:
    """Removes hooks at the end of a `with` block."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return all(map(_finite, value)) if isinstance(value, tuple | list) else True


def _alike(recorded: float, now: float) -> bool:
    if math.isfinite(recorded):
        return math.isclose(recorded, now, rel_tol=1e-3)
    return not math.isfinite(now)
