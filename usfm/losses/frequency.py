"""The frequency loss: distance between the Fourier spectra of reconstruction and clean image.

Sources: USFM names the loss without a formula. Default: focal frequency loss (Jiang et al., ICCV 2021) as A2MIM
uses it; `removed_bands` is MFM's (Xie et al., ICLR 2023) restriction to what was masked.
"""

import torch

__all__ = ["frequency_loss"]


def frequency_loss(
    predicted: torch.Tensor, target: torch.Tensor, focal: bool = True, support: torch.Tensor | None = None
) -> torch.Tensor:
    """mean(w |dF|^2) with dF = DFT(predicted) - DFT(target), orthonormal, float32 outside autocast.

    Args:
        predicted: (B, C, N, N).
        target: (B, C, N, N), the clean image.
        focal: w = log(1 + |dF|) / max over the image's channel, detached; else w = 1, and by Parseval the loss
            is the mean squared error of the pixels.
        support: (B, N, N) bool in the centred spectrum, True = counts; None = all frequencies.

    Returns:
        Scalar float32.
    """
    with torch.autocast(device_type=predicted.device.type, enabled=False):
        difference = torch.fft.fft2(predicted.float() - target.float(), norm="ortho")
        power = difference.real.square() + difference.imag.square()  # (B, C, N, N)
        if focal:
            weight = torch.log1p(power.detach().sqrt())
            power = (
                power * weight / weight.amax(dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
            )
        if support is None:
            mean: torch.Tensor = power.mean()
            return mean
        inside = torch.fft.ifftshift(support, dim=(-2, -1))[:, None]
        restricted: torch.Tensor = (power * inside).sum() / (inside.sum() * power.shape[1]).clamp(min=1)
        return restricted
