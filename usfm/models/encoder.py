"""The encoder: BEiT-style ViT with one shared relative position bias, timm's `Beit` in five sizes.

Source: known from the key list of the authors' released weights (ViT-B/16, 224 px, LayerScale 0.1, no absolute
positions, q and v biases). timm's `Beit` is this network; nothing of it is written again here. The switches that
are not the paper's (`positions`, `layer_scale`, `channels`, `final_norm`) exist so that other people's ViT weights
are this network exactly (usfm.models.weights).
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.beit import Beit
from torch import nn

from usfm.config import Config

__all__ = ["SIZES", "Encoder", "EncoderConfig"]

# width, depth, heads
SIZES = {
    "nano": (96, 6, 3),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
MaskToken = Literal["added", "replace", "none"]
Positions = Literal["shared_bias", "block_bias", "absolute"]


class EncoderConfig(Config):
    """The encoder's shape. Known, likely, unknown: how sure we are that the paper does it so.

    Attributes:
        size: nano (0.7 M parameters, for demonstrations and tests on a CPU), tiny (5.5 M), small (22 M), base
            (86 M; known: the paper's) or large (304 M).
        img_px: side of the square input. Known: 224.
        patch_px: side of a patch. Known: 16.
        drop_path: stochastic depth rate of the last block, rising linearly from 0. Known: 0.1.
        positions: how the network knows where a patch is. Known: "shared_bias", one table of relative position
            biases for all blocks. "block_bias" (a table per block) and "absolute" (an embedding that is added)
            are what BEiT's fine-tuned models, and MAE, DINOv2 and plain ViTs have.
        layer_scale: initial LayerScale; None or 0 = a network without it. Known: 0.1.
        final_norm: LayerNorm after the last block. Known: True. False for models that norm after pooling.
        channels: 1, or 3 with the grey value repeated. Known: 3; ours stores grey, and 1 is equal (see
            usfm.models.weights.grey).
        mean: subtracted from grey values in [0, 1]; the mean of ImageNet's three. Unknown in pre-training.
        std: divided by; likewise.
        channel_mean: the same for each of three channels. Known downstream: ImageNet's; likely in pre-training.
        channel_std: divided by; likewise.
        mask_token: how a learnt token marks hidden patches: "added" to the embedding (likely: A2MIM, the method
            it builds on), "replace" it (SimMIM, BEiT), or "none". Known: the token exists.
    """

    size: Literal["nano", "tiny", "small", "base", "large"] = "base"
    img_px: int = Field(default=224, ge=16)
    patch_px: int = Field(default=16, ge=2)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    positions: Positions = "shared_bias"
    layer_scale: float | None = Field(default=0.1, ge=0)
    final_norm: bool = True
    channels: Literal[1, 3] = 1
    mean: float = 0.449
    std: float = Field(default=0.226, gt=0)
    channel_mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    channel_std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    mask_token: MaskToken = "added"

    @model_validator(mode="after")
    def _divides(self) -> "EncoderConfig":
        if self.img_px % self.patch_px:
            raise ValueError(f"img_px {self.img_px} is not a multiple of patch_px {self.patch_px}")
        if min(self.channel_std) <= 0:
            raise ValueError(f"channel_std {self.channel_std} must be greater than 0")
        return self

    @property
    def width(self) -> int:
        """Channels of a token."""
        return SIZES[self.size][0]

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.img_px // self.patch_px


class Encoder(nn.Module):
    """Grey images to tokens. Normalises its own input, so every caller passes grey values in [0, 1]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, depth, heads = SIZES[config.size]
        self.beit = Beit(
            img_size=config.img_px,
            patch_size=config.patch_px,
            in_chans=config.channels,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            drop_path_rate=config.drop_path,
            init_values=config.layer_scale or None,
            use_abs_pos_emb=config.positions == "absolute",
            use_rel_pos_bias=config.positions == "block_bias",
            use_shared_rel_pos_bias=config.positions == "shared_bias",
            use_fc_norm=False,  # keeps the final norm of the released weights
        )
        if not config.final_norm:
            self.beit.norm = nn.Identity()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width)) if config.mask_token != "none" else None
        if self.mask_token is not None:
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, images: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """Encode.

        Args:
            images: (B, 1, S, S) float32 grey values in [0, 1].
            hidden: (B, S // P, S // P) bool token mask, True = hidden; None = nothing is hidden.

        Returns:
            (B, 1 + N, D) tokens after the final norm, CLS first, patches in row order.
        """
        return self.intermediates(images, [], hidden)[1]

    def intermediates(
        self, images: torch.Tensor, blocks: list[int], hidden: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """As `forward`, and the tokens (B, 1 + N, D) after some blocks (counted from 1), before the norm."""
        beit = self.beit
        tokens = beit.patch_embed(self.normalise(images))  # (B, N, D)
        if hidden is not None and self.mask_token is not None:
            marked = hidden.flatten(1)[..., None].to(tokens.dtype)  # (B, N, 1)
            if self.config.mask_token == "replace":
                tokens = tokens * (1 - marked)
            tokens = tokens + self.mask_token.to(tokens.dtype) * marked
        tokens = torch.cat([beit.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        if beit.pos_embed is not None:
            tokens = tokens + beit.pos_embed
        # (heads, 1 + N, 1 + N), once per forward for all blocks
        bias = None if beit.rel_pos_bias is None else beit.rel_pos_bias()
        taken = []
        for number, block in enumerate(beit.blocks, start=1):
            tokens = block(tokens, shared_rel_pos_bias=bias)
            if number in blocks:
                taken.append(tokens)
        normed: torch.Tensor = beit.norm(tokens)
        return taken, normed

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Grey values (B, 1, S, S) in [0, 1] to what the patch embedding takes, (B, channels, S, S)."""
        config = self.config
        if config.channels == 1:
            return (images - config.mean) / config.std
        # a channel at a time: constants made on the device would have to be waited for
        pairs = zip(config.channel_mean, config.channel_std, strict=True)
        return torch.cat([(images - mean) / std for mean, std in pairs], dim=1)
