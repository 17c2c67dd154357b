"""Gradient norms by part of the network; their squares add up to the square of the whole norm."""

import re

import torch
from torch import nn

from usfm.models.objective import Objective

__all__ = ["gradient_norms", "parts_of"]


def parts_of(objective: Objective) -> dict[str, list[nn.Parameter]]:
    """Every parameter in exactly one part.

    patch_embed, blocks_early, blocks_middle and blocks_late (thirds of the depth), encoder_rest (class and mask
    token, position bias, final norm), and decoder: all outside the encoder.
    """
    parts: dict[str, list[nn.Parameter]] = {
        name: []
        for name in ("patch_embed", "blocks_early", "blocks_middle", "blocks_late", "encoder_rest", "decoder")
    }
    depth = len(objective.encoder.beit.blocks)
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue  # an averaged teacher
        if not name.startswith("encoder."):
            part = "decoder"
        elif "patch_embed" in name:
            part = "patch_embed"
        elif block := re.search(r"\.blocks\.(\d+)\.", name):
            part = ("blocks_early", "blocks_middle", "blocks_late")[3 * int(block[1]) // depth]
        else:
            part = "encoder_rest"
        parts[part].append(parameter)
    return {name: members for name, members in parts.items() if members}


def gradient_norms(parts: dict[str, list[nn.Parameter]]) -> dict[str, torch.Tensor]:
    """L2 norm of each part's gradients as scalars on the device: nothing waits for them here.

    All workers call it where parameters are spread over them.
    """
    norms = {}
    for name, members in parts.items():
        norm = nn.utils.get_total_norm([p.grad for p in members if p.grad is not None])
        full = getattr(norm, "full_tensor", None)  # a DTensor's
        norms[name] = full() if full is not None else norm
    return norms
