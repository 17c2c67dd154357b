"""Weight files in other people's layouts, with random values; names and shapes as their public code has them."""

import torch
from timm.models.beit import Beit, gen_relative_position_index
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = ["beit_model", "images", "randomise", "released_shapes", "vit_model", "with_separate_names"]

NANO = {"embed_dim": 96, "depth": 6, "num_heads": 3, "img_size": 64, "patch_size": 16, "num_classes": 0}


def images(n: int = 2, side: int = 64, seed: int = 0) -> torch.Tensor:
    """(n, 1, side, side) grey values in [0, 1]."""
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial zeros and ones, so that a lost or swapped tensor shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.5 + noise)
    return model.eval()


def beit_model(**values: object) -> Beit:
    """timm's BEiT, three channels, random weights."""
    return randomise(Beit(**{**NANO, "init_values": 0.1, "use_abs_pos_emb": False, **values}))


def vit_model(**values: object) -> VisionTransformer:
    """timm's plain ViT, three channels, random weights."""
    return randomise(VisionTransformer(**{**NANO, "global_pool": "token", **values}))


def with_separate_names(state: dict[str, torch.Tensor], grid: int) -> dict[str, torch.Tensor]:
    """A timm Beit's state dict as BEiT's own code saves it: the index is in it."""
    index = gen_relative_position_index((grid, grid))
    with_index = {}
    for key, tensor in state.items():
        with_index[key] = tensor
        if key.endswith("relative_position_bias_table"):
            with_index[key.replace("bias_table", "index")] = index
    return with_index


def released_shapes() -> dict[str, tuple[int, ...]]:
    """The authors' 188 keys with their shapes, written out from the method's table."""
    width = 768
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "mask_token": (1, 1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "rel_pos_bias.relative_position_bias_table": (732, 12),
        "rel_pos_bias.relative_position_index": (197, 197),
    }
    for block in range(12):
        stem = f"blocks.{block}."
        for name in ("gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[stem + name] = (width,)
        shapes[stem + "attn.qkv.weight"] = (3 * width, width)
        for name in ("attn.q_bias", "attn.v_bias", "attn.proj.bias", "mlp.fc2.bias"):
            shapes[stem + name] = (width,)
        shapes[stem + "attn.proj.weight"] = (width, width)
        shapes[stem + "mlp.fc1.weight"] = (4 * width, width)
        shapes[stem + "mlp.fc1.bias"] = (4 * width,)
        shapes[stem + "mlp.fc2.weight"] = (width, 4 * width)
    shapes["norm.weight"] = shapes["norm.bias"] = (width,)
    return shapes
