"""One number for the content of a batch, so that two runs can be seen to have trained on the same samples."""

import torch

__all__ = ["DIGEST_BITS", "batch_digest"]

DIGEST_BITS = 40
_ODD = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed number: spreads neighbours over all bits
_NAMES = ("index", "organ", "height", "width")


def batch_digest(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Digest of sample numbers, organs, sizes and every pixel, before anything is drawn.

    A weighted sum of eight pixels at a time, modulo 2^64, runs on the device that the batch lies on, so that a
    GPU's training thread does not spend 15 us an image of 256 px on it (which this costs on one core, and a CRC
    too). It tells samples that differ, were exchanged or repeated; it is no protection against a forger.

    Args:
        batch: index, organ, height, width (n,) int64 and image (n, S, S) uint8.

    Returns:
        () float64, an integer in [0, 2^40): sums over thousands of batches are exact, and do not depend on order.
    """
    pixels = batch["image"].flatten(1)
    words = torch.nn.functional.pad(pixels, (0, -pixels.shape[1] % 8)).view(torch.int64)
    place = torch.arange(1, words.shape[1] + 1, device=words.device) * _ODD | 1
    digest = (words * place).sum(1)
    for name in _NAMES:
        digest = (digest ^ (digest >> 29)) * _ODD + batch[name]
    digest = (digest ^ (digest >> 32)) * _ODD
    return ((digest >> 20) & ((1 << DIGEST_BITS) - 1)).sum().remainder(1 << DIGEST_BITS).double()
