"""AdamW with the field's parameter groups, and a warm-up + cosine rate that follows the sample count."""

import math
import re

import torch
from pydantic import Field
from torch import nn

from usfm.config import Config

__all__ = ["OptimConfig", "learning_rate", "make_optimizer", "set_learning_rate"]


class OptimConfig(Config):
    """Optimizer and schedule; defaults are SimMIM's for ViT-B (unknown in USFM).

    Attributes:
        lr: base rate for a global batch of `base_batch`; the peak is lr x batch / base_batch.
        base_batch: see `lr`.
        weight_decay: none on 1-D tensors, biases, tokens and positions.
        beta1: of AdamW.
        beta2: of AdamW.
        warmup: share of the run with a linearly rising rate.
        final_lr_ratio: rate at the end over the peak.
        clip_norm: largest gradient norm; 0 switches clipping off.
    """

    lr: float = Field(default=1e-4, gt=0)
    base_batch: int = Field(default=512, ge=1)
    weight_decay: float = Field(default=0.05, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    final_lr_ratio: float = Field(default=0.01, ge=0, le=1)
    clip_norm: float = Field(default=5.0, ge=0)

    def peak_lr(self, batch: int) -> float:
        """The highest rate of a run with this global batch."""
        return self.lr * batch / self.base_batch


def learning_rate(config: OptimConfig, batch: int, samples_seen: int, total_samples: int) -> float:
    """Rate for the step that starts after `samples_seen` samples: linear warm-up, then half a cosine."""
    peak = config.peak_lr(batch)
    warm = config.warmup * total_samples
    if samples_seen < warm:
        return peak * (samples_seen + batch) / (warm + batch)
    progress = min(1.0, (samples_seen - warm) / max(total_samples - warm, 1))
    floor = peak * config.final_lr_ratio
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, config: OptimConfig, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """AdamW over groups by weight decay and depth.

    Args:
        model: parameters that do not require gradients are left out.
        config: optimizer.
        layer_decay: rate scale per block away from the output: block k of n (from 1) gets
            layer_decay ** (n + 1 - k), the embedding layer_decay ** (n + 1), the rest 1. Source: BEiT.
    """
    blocks = [int(m.group(1)) for name, _ in model.named_parameters() if (m := _BLOCK.search(name))]
    depth = max(blocks, default=-1) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim <= 1 or _is_token(name) else config.weight_decay
            scale = layer_decay ** _distance(name, depth)
            groups.setdefault((decay, scale), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "weight_decay": decay, "lr_scale": scale} for (decay, scale), p in groups.items()],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


_BLOCK = re.compile(r"\.blocks\.(\d+)\.")


def _distance(name: str, depth: int) -> int:
    """Blocks between a parameter and the head."""
    if block := _BLOCK.search(name):
        return depth - int(block.group(1))
    embedding = ("patch_embed", "cls_token", "mask_token", "pos_embed", "relative_position_bias_table")
    return depth + 1 if any(part in name for part in embedding) else 0


def _is_token(name: str) -> bool:
    return name.endswith(("cls_token", "mask_token", "pos_embed", "relative_position_bias_table"))
