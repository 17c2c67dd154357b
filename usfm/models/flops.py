"""What one image costs the encoder."""

from usfm.models.encoder import SIZES, EncoderConfig

__all__ = ["encoder_flops"]


def encoder_flops(config: EncoderConfig) -> int:
    """Floating point operations of one forward pass over one image; a multiply and an add are two.

    Matrix products alone, as is usual: patch embedding 2 N C P^2 D, and in each block 24 T D^2 for the six linear
    maps and 4 T^2 D for the attention, with T = N + 1 tokens. Training costs about three times as much.
    """
    width, depth, _ = SIZES[config.size]
    patches = config.grid**2
    tokens = patches + 1
    embedding = 2 * patches * config.channels * config.patch_px**2 * width
    return embedding + depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
