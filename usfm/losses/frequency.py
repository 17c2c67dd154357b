"""The frequency loss: distance between the Fourier spectra of reconstruction and clean image.

Known: USFM has such a loss, on the whole clean image. Unknown: formula and weight. Default: focal frequency loss
(Jiang et al., ICCV 2021) as A2MIM uses it; `removed_bands` is MFM's (Xie et al., ICLR 2023) restriction to what was
masked.
"""

from typing import Any

import torch

__all__ = ["frequency_loss"]


def frequency_loss(
    predicted: torch.Tensor, target: torch.Tensor, focal: bool = True, support: torch.Tensor | None = None
) -> torch.Tensor:
    """mean(w |dF|^2) with dF = DFT(predicted) - DFT(target), orthonormal, float32 outside autocast.

    The DFT of a real difference is the same at k and -k but for its sign, so `rfft2` is enough: its inner columns
    count twice.

    Args:
        predicted: (B, C, N, N).
        target: (B, C, N, N), the clean image (known).
        focal: w = log(1 + |dF|) / max over the image's channel, detached (unknown; A2MIM's); else w = 1, and by
            Parseval the loss is the mean squared error of the pixels.
        support: (B, N, N // 2 + 1) float32 in the order of `rfft2`, 1 = counts, as `removed_spectrum` has it
            (unknown; MFM's); None = all frequencies.

    Returns:
        Scalar float32.
    """
    with torch.autocast(device_type=predicted.device.type, enabled=False):
        loss: torch.Tensor = _WeightedPower.apply(predicted.float() - target.float(), focal, support)  # type: ignore[no-untyped-call]
        return loss


class _WeightedPower(torch.autograd.Function):
    """mean(w |F x|^2) of a real x with its gradient 2 F^-1(w F x) / n: one transform back, as F is unitary.

    With autograd's own gradient of `rfft2` the loss takes half as long again (docs/LOG.md).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, focal: bool, support: torch.Tensor | None) -> torch.Tensor:
        """Arguments as `frequency_loss` has them; x is predicted - target, (B, C, N, N) float32."""
        size = x.shape[-1]
        spectrum = torch.fft.rfft2(x, norm="ortho")  # (B, C, N, N // 2 + 1)
        power = spectrum.real.square() + spectrum.imag.square()
        twice = power.new_full((power.shape[-1],), 2.0)  # columns that stand for k and -k
        twice[0] = 1
        if size % 2 == 0:
            twice[-1] = 1
        weight = torch.ones_like(power)
        if focal:
            weight = torch.log1p(power.sqrt())
            weight /= weight.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        if support is None:
            weight /= x.numel()
        else:
            count = (support * twice).sum() * x.shape[1]
            weight = weight * support[:, None] / count.clamp(min=1)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.fft.irfft2(2 * weight * spectrum, s=x.shape[-2:], norm="ortho"))
        mean: torch.Tensor = (power * weight * twice).sum()
        return mean

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient with respect to x; w is a constant (detached), as in the focal frequency loss."""
        (gradient,) = ctx.saved_tensors
        return upstream[0] * gradient, None, None
