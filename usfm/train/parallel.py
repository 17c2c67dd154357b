"""How a step is spread over devices and memory: replicas (DDP) or shards (FSDP2), recomputation, compilation.

Nothing here changes what is learnt, but for rounding. Known of the paper's run: nothing; all of it is ours.
"""

import contextlib
from collections import defaultdict
from typing import Any, Literal

import torch
import torch.distributed
from pydantic import Field, model_validator
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from usfm.config import Config
from usfm.models.encoder import Encoder
from usfm.train.context import WorkerContext

__all__ = ["SpeedConfig", "accumulating", "gathered", "prepare", "spread"]


class SpeedConfig(Config):
    """Where and how a step is computed. A run may change all of it when it goes on.

    Attributes:
        parallel: "ddp" keeps the whole model on every worker; "fsdp" keeps a share of weights, gradients and
            moments (FSDP2, one shard group per block). Checkpoints are the same files. One worker needs neither.
        compile: torch.compile of the encoder, for "ddp" alone; the first step takes minutes.
        recompute: activation checkpointing: blocks are computed again in the backward pass, a third more work for a
            fraction of the memory; drop-path draws the same numbers again.
        gradients: in which precision gradients travel between workers, "fp32" or "bf16" (half the bytes).
        bucket_mb: gradients that DDP sends together, in MB.
        deterministic: algorithms that give the same bits each time: a run that was stopped goes on as if it had not
            been. False = equal up to rounding, and faster on some GPUs and encoders.
    """

    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    recompute: bool = False
    gradients: Literal["fp32", "bf16"] = "fp32"
    bucket_mb: int = Field(default=25, ge=1)
    deterministic: bool = True

    @model_validator(mode="after")
    def _fits(self) -> "SpeedConfig":
        if self.compile and self.parallel == "fsdp":
            raise ValueError("compile works with parallel ddp alone; set one of the two")
        return self


def prepare(objective: nn.Module, speed: SpeedConfig) -> None:
    """Recompute and compile in place, as asked for; parameters, their names and checkpoints stay as they are."""
    for encoder in _encoders(objective):
        if speed.recompute:
            for block in encoder.beit.blocks:
                _recompute(block)
        if speed.compile:
            encoder.compile()


def spread(
    objective: nn.Module, optimizer: torch.optim.Optimizer, speed: SpeedConfig, context: WorkerContext
) -> nn.Module:
    """The module to call, whose gradients are averaged over workers.

    With shards, the parameters of `objective` become DTensors, and `optimizer` goes on with them and their share of
    its state: load before, not after.

    Args:
        objective: on the device, with its weights loaded.
        optimizer: over its parameters, with its state loaded.
        speed: what is asked for.
        context: this worker.
    """
    if context.world_size == 1 or not torch.distributed.is_initialized():
        return context.wrap(objective)
    if speed.parallel == "fsdp":
        _shard(objective, optimizer, speed, context)
        return objective
    on_gpu = context.device.type == "cuda"
    replica = DistributedDataParallel(
        objective.to(context.device),
        device_ids=[context.device] if on_gpu else None,
        broadcast_buffers=False,  # they are constants
        gradient_as_bucket_view=True,  # gradients live in the buckets: a copy and the model's size less
        bucket_cap_mb=speed.bucket_mb,
    )
    if speed.gradients == "bf16":
        replica.register_comm_hook(None, default_hooks.bf16_compress_hook)  # type: ignore[no-untyped-call]
    return replica


def accumulating(model: nn.Module, sync: bool) -> contextlib.AbstractContextManager[None]:
    """Around one micro-batch's backward pass: gradients travel with the last one of a step alone (`sync`)."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(sync)
        return contextlib.nullcontext()
    if sync or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()  # type: ignore[no-any-return, no-untyped-call]


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a sharded tensor; every worker calls it. Any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _encoders(objective: nn.Module) -> list[Encoder]:
    return [module for module in objective.modules() if isinstance(module, Encoder)]


def _recompute(block: nn.Module) -> None:
    forward = block.forward

    def again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)

    block.forward = again


def _shard(
    objective: nn.Module, optimizer: torch.optim.Optimizer, speed: SpeedConfig, context: WorkerContext
) -> None:
    """Shard in place, block by block, and give the optimizer the shards of its parameters and moments."""
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    reduce = torch.bfloat16 if speed.gradients == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(reduce_dtype=reduce, cast_forward_inputs=False)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    for encoder in _encoders(objective):
        for block in encoder.beit.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy)
    shards = dict(objective.named_parameters())
    before, optimizer.state = optimizer.state, defaultdict(dict)
    for group in optimizer.param_groups:
        whole, group["params"] = group["params"], [shards[names[id(parameter)]] for parameter in group["params"]]
        for old, new in zip(whole, group["params"], strict=True):
            if old in before:
                optimizer.state[new] = {name: _share(value, new) for name, value in before[old].items()}


def _share(value: Any, parameter: nn.Parameter) -> Any:
    """This worker's share of a moment, laid out as the parameter is; every worker has the whole of it."""
    if torch.is_tensor(value) and value.shape == parameter.shape and isinstance(parameter.data, DTensor):
        whole = value.to(parameter.data.device)
        return distribute_tensor(whole, parameter.data.device_mesh, parameter.data.placements, src_data_rank=None)
    return value
