"""The layout of the authors' `USFM_latest.pth`: its 188 keys, and writing an encoder of ours in it.

Source: known, the key list of the released file (openmedlab/USFM). Its code and weights are not used here.
"""

from pathlib import Path

import torch
from timm.models.beit import gen_relative_position_index

from usfm.errors import CheckpointError
from usfm.models.encoder import SIZES, Encoder
from usfm.models.weights.grey import NORMALISATIONS, normalisation_of, refit_patch_embedding

__all__ = ["released_keys", "released_state", "save_released"]

INDEX = "rel_pos_bias.relative_position_index"
_OF_A_BLOCK = (
    "gamma_1", "gamma_2", "norm1.weight", "norm1.bias", "attn.q_bias", "attn.v_bias", "attn.qkv.weight",
    "attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias",
    "mlp.fc2.weight", "mlp.fc2.bias",
)  # fmt: skip


def released_keys(depth: int = 12) -> list[str]:
    """Every key of the layout; 188 for the released depth."""
    return [
        "cls_token", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias",
        "rel_pos_bias.relative_position_bias_table", INDEX,
        *(f"blocks.{block}.{name}" for block in range(depth) for name in _OF_A_BLOCK),
        "norm.weight", "norm.bias",
    ]  # fmt: skip


def released_state(encoder: Encoder) -> dict[str, torch.Tensor]:
    """An encoder in the authors' layout, for their code: three channels, ImageNet's mean and deviation.

    A three-channel encoder that was read from such a file comes out bit by bit as it was; a grey one gets an equal
    share of its kernel in each channel, and is equal on grey images.

    Raises:
        CheckpointError: the layout cannot hold this encoder.
    """
    config = encoder.config
    wants = {"positions": "shared_bias", "final_norm": True}
    wrong = [f"{name}={getattr(config, name)}" for name, value in wants.items() if getattr(config, name) != value]
    wrong += ["layer_scale=none"] if not config.layer_scale else []
    wrong += ["no mask token"] if encoder.mask_token is None else []
    if wrong:
        raise CheckpointError(
            "the authors' layout has one shared bias table, LayerScale, a final norm and a mask token; this "
            f"encoder has {', '.join(wrong)}"
        )
    own = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
    kernel, bias = refit_patch_embedding(
        own["beit.patch_embed.proj.weight"],
        own["beit.patch_embed.proj.bias"],
        normalisation_of(config),
        NORMALISATIONS["imagenet"],
    )
    written = {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": bias, "mask_token": own["mask_token"]}
    written[INDEX] = gen_relative_position_index((config.grid, config.grid))
    return {
        key: (written[key] if key in written else own[f"beit.{key}"]).contiguous()
        for key in released_keys(SIZES[config.size][1])
    }


def save_released(encoder: Encoder, path: Path) -> None:
    """Write `released_state` with `torch.save`, the flat state dict that the authors' code loads.

    Raises:
        CheckpointError: the layout cannot hold this encoder.
    """
    state = released_state(encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
