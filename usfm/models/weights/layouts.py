"""The weight files that are known: how each is recognised, what it was trained with, and what its keys mean here.

Ours and timm's `Beit` name the same tensors the same way, so most rules are a change of prefix. Facts of the other
layouts are those of their public code: MAE (facebookresearch/mae), BEiT (microsoft/unilm), DINOv2
(facebookresearch/dinov2), SimMIM (microsoft/SimMIM), timm (huggingface/pytorch-image-models).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from usfm.models.encoder import MaskToken

__all__ = ["LAYOUTS", "PREFIXES", "Layout", "detect_layout", "dropped_because", "is_other_part", "rename"]


@dataclass(frozen=True)
class Layout:
    """What is known of a kind of file, beside its keys.

    Attributes:
        title: for people.
        normalisation: name of what its input was normalised with; None = its keys do not say.
        mask_token: how its mask token is used, where it has one.
    """

    title: str
    normalisation: str | None
    mask_token: MaskToken


LAYOUTS = {
    "ours": Layout("this project's encoder", "equal", "added"),
    "usfm": Layout("USFM as its authors released it", "imagenet", "added"),
    "beit": Layout("BEiT, or timm's Beit", None, "replace"),
    "simmim": Layout("SimMIM's ViT with its decoder", "imagenet", "replace"),
    "mae": Layout("MAE with its decoder", "imagenet", "none"),
    "dinov2": Layout("DINOv2", "imagenet", "replace"),
    "vit": Layout("a plain ViT: timm's VisionTransformer, or MAE's encoder alone", None, "replace"),
}

# in front of an encoder's keys; the earliest that is there counts, the same tensors under a later one are a copy
PREFIXES = (
    "",
    "module.",
    "encoder.",
    "backbone.",
    "module.encoder.",
    "module.backbone.",
    "model.",
    "model.encoder.",
    "model.backbone.",
    "teacher.",
    "teacher.backbone.",
    "teacher.encoder.",
)

_BLOCK = r"blocks\.(\d+)\."
# (key after its prefix, ours); groups are filled in
_RENAMES = [
    (r"(cls_token|pos_embed)", "beit.{0}"),
    (r"mask_token", "mask_token"),
    (r"patch_embed\.proj\.(weight|bias)", "beit.patch_embed.proj.{0}"),
    (r"rel_pos_bias\.relative_position_bias_table", "beit.rel_pos_bias.relative_position_bias_table"),
    (_BLOCK + r"(norm1|norm2|attn\.proj|mlp\.fc1|mlp\.fc2)\.(weight|bias)", "beit.blocks.{0}.{1}.{2}"),
    (_BLOCK + r"attn\.(qkv\.weight|q_bias|v_bias|relative_position_bias_table)", "beit.blocks.{0}.attn.{1}"),
    (_BLOCK + r"attn\.qkv\.bias", "beit.blocks.{0}.attn.qkv.bias"),  # split later
    (_BLOCK + r"gamma_([12])", "beit.blocks.{0}.gamma_{1}"),
    (_BLOCK + r"ls([12])\.gamma", "beit.blocks.{0}.gamma_{1}"),
    (r"norm\.(weight|bias)", "beit.norm.{0}"),
]
# dropped in any layout
_DROPS = [
    (r"(.*\.)?relative_position_index", "recomputed from the image side; equal to it"),
    (_BLOCK + r"attn\.k_bias", "a key bias adds the same to all scores of a query; softmax cancels it"),
    (r"fc_norm\.(weight|bias)", "norm behind the pooling; belongs to the classifier"),
    (r"(head|head_dist|lm_head)\.(weight|bias)", "classifier, or the predictor of pre-training"),
]
# beside the encoder in a pre-training checkpoint; the whole key
_OTHER_PARTS = [
    (r"(module\.|model\.)?decoder(\.|_).*", "decoder of pre-training"),
    (r"(module\.|model\.)?(predictor|projector)\..*", "predictor of pre-training"),
    (r"(student\.|teacher\.|module\.)?(dino_head|ibot_head|head)\..*", "head of pre-training, or a classifier"),
    (r"(student|teacher|target|ema)\..*", "another copy of the encoder; not the one that is taken"),
    (r"mask\..*", "masks of pre-training, made anew"),
]


def rename(key: str) -> str | None:
    """Our name for a key without prefix; None if there is none. `qkv.bias` is to be split by the caller."""
    for pattern, ours in _RENAMES:
        if match := re.fullmatch(pattern, key):
            return ours.format(*match.groups())
    return None


def dropped_because(key: str, layout: str) -> str | None:
    """Why a key without prefix is left out on purpose; None if nothing says so."""
    if layout == "mae" and key == "mask_token":
        return "the decoder's: MAE's encoder never sees a mask token"
    return next((reason for pattern, reason in _DROPS if re.fullmatch(pattern, key)), None)


def is_other_part(key: str) -> str | None:
    """What a key without the encoder's prefix belongs to; None if that is not known."""
    return next((reason for pattern, reason in _OTHER_PARTS if re.fullmatch(pattern, key)), None)


def detect_layout(keys: Collection[str], all_keys: Collection[str], released: Collection[str]) -> str:
    """A key of `LAYOUTS`, from the keys without prefix, the file's own, and the authors' list."""
    if "beit.cls_token" in keys:
        return "ours"
    if set(keys) == set(released):
        return "usfm"
    if any(key.startswith("decoder_blocks.") for key in all_keys):
        return "mae"
    if any(re.fullmatch(r"(module\.|model\.)?decoder\.0\.weight", key) for key in all_keys):
        return "simmim"
    if "blocks.0.gamma_1" in keys or "blocks.0.attn.q_bias" in keys:
        return "beit"
    if "register_tokens" in keys or ("mask_token" in keys and "blocks.0.ls1.gamma" in keys):
        return "dinov2"
    return "vit"
