"""What the device could do: measured matrix products, and the work of one image, counted."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from usfm.models.pixel_objective import PixelObjective

__all__ = ["flops_per_image", "matmul_rate"]


def matmul_rate(
    device: torch.device, bf16: bool, now: Callable[[], float] = time.perf_counter, seconds: float = 0.3
) -> float:
    """FLOP/s of the best of three square products of random numbers, in the precision of the step."""
    best, dtype = 0.0, torch.bfloat16 if bf16 else torch.float32
    for side in (4096, 8192, 12288) if device.type == "cuda" else (256, 512, 1024):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        a @ b
        _wait(device)
        until = now() + seconds / 3
        while True:
            began, count = now(), 5 if device.type == "cuda" else 1
            for _ in range(count):
                a @ b
            _wait(device)
            ended = now()
            best = max(best, count * 2 * side**3 / (ended - began))
            if ended > until:
                break
    return best


def flops_per_image(objective: PixelObjective, batch: int, img_px: int, device: torch.device) -> dict[str, float]:
    """FLOPs of forward and backward for one image, as torch counts matrix products and attention."""
    images = torch.rand(batch, 1, img_px, img_px, device=device)
    index = torch.arange(batch, device=device)
    counts = {}
    for name in ("encoder", "step"):
        with FlopCounterMode(display=False) as counter:
            loss = objective.encoder(images).float().sum() if name == "encoder" else objective(images, index).loss
            loss.backward()
        counts[name] = counter.get_total_flops() / batch
        objective.zero_grad(set_to_none=True)
    return counts


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
