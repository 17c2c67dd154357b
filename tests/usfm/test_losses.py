import numpy as np
import pytest
import torch
import torch.nn.functional as F

from usfm.losses.classification import classification_loss
from usfm.losses.frequency import frequency_loss
from usfm.losses.segmentation import segmentation_loss
from usfm.losses.spatial import spatial_loss

SIDE = 12


def half(whole: torch.Tensor) -> torch.Tensor:
    """A symmetric support (B, N, N) in `fft2`'s order as `rfft2` orders it."""
    return whole[..., : whole.shape[-1] // 2 + 1].float()


def pair(side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, side, side, generator=g), torch.rand(2, 3, side, side, generator=g)


def slow_dft(x: np.ndarray) -> np.ndarray:
    """Orthonormal DFT of (N, N) by its definition."""
    n = len(x)
    k = np.arange(n)
    matrix = np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)
    return matrix @ x @ matrix.T


def test_spatial_loss_is_the_mean_over_hidden_pixels() -> None:
    a, b = pair()
    hidden = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    hidden[0, :4, :6] = True
    hidden[1, 5:, 2:] = True
    total, count = 0.0, 0
    for n, c, i, j in np.ndindex(2, 3, SIDE, SIDE):
        if hidden[n, i, j]:
            total, count = total + abs(float(a[n, c, i, j] - b[n, c, i, j])), count + 1
    assert np.isclose(float(spatial_loss(a, b, hidden)), total / count, rtol=1e-5)
    assert float(spatial_loss(a, b, torch.zeros_like(hidden))) == 0


def test_visible_pixels_get_no_gradient_from_the_spatial_loss() -> None:
    a, b = pair()
    a.requires_grad_()
    hidden = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    hidden[:, :6] = True
    spatial_loss(a, b, hidden).backward()
    assert (a.grad[:, :, :6] != 0).all()
    assert (a.grad[:, :, 6:] == 0).all()


@pytest.mark.parametrize("side", [12, 13])
def test_focal_frequency_loss_equals_the_slow_version(side: int) -> None:
    a, b = pair(side)
    values = []
    for n, c in np.ndindex(2, 3):
        d = np.abs(slow_dft((a[n, c] - b[n, c]).numpy().astype(np.float64)))
        w = np.log(1 + d)
        values.append(np.mean(w / w.max() * d**2))
    assert np.isclose(float(frequency_loss(a, b)), np.mean(values), rtol=1e-5)


def test_without_focus_it_is_the_mean_squared_error() -> None:
    a, b = pair()
    assert torch.allclose(frequency_loss(a, b, focal=False), F.mse_loss(a, b), rtol=1e-5)  # Parseval


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("focal", [True, False])
def test_support_restricts_the_spectrum(side: int, focal: bool) -> None:
    a, b = pair(side)
    k = np.minimum(np.arange(side), side - np.arange(side))  # |frequency|
    radius = np.hypot(k[:, None], k[None, :])
    support = np.stack([(radius > 1) & (radius <= 4), radius > 3])
    values = []
    for n, c in np.ndindex(2, 3):
        d = np.abs(slow_dft((a[n, c] - b[n, c]).numpy().astype(np.float64)))
        w = np.log(1 + d) / np.log(1 + d).max() if focal else np.ones_like(d)
        values += (w * d**2)[support[n]].tolist()
    ours = frequency_loss(a, b, focal=focal, support=half(torch.from_numpy(support)))
    assert np.isclose(float(ours), np.mean(values), rtol=1e-5)


@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize("restricted", [False, True])
def test_the_gradient_is_that_of_the_whole_spectrum_with_the_weight_held(side: int, restricted: bool) -> None:
    """Autograd through a complex DFT matrix in float64, w detached, against the closed form."""
    a, b = (x.double() for x in pair(side))
    k = torch.arange(side, dtype=torch.float64)
    matrix = torch.polar(torch.ones(side, side, dtype=torch.float64), -2 * torch.pi * torch.outer(k, k) / side)
    symmetric = torch.minimum(k, side - k)
    support = ((symmetric[:, None] + symmetric[None, :]) % 3 > 0).expand(2, side, side)
    slow_in = a.clone().requires_grad_()
    power = (matrix @ (slow_in - b).to(matrix.dtype) @ matrix / side).abs().square()
    w = torch.log1p(power.detach().sqrt())
    weighted = power * w / w.amax(dim=(-2, -1), keepdim=True)
    slow = weighted[support[:, None].expand_as(weighted)].mean() if restricted else weighted.mean()
    slow.backward()
    fast_in = a.float().requires_grad_()
    fast = frequency_loss(fast_in, b.float(), support=half(support) if restricted else None)
    (3 * fast).backward()
    assert fast.item() == pytest.approx(slow.item(), rel=1e-5)
    assert torch.allclose(fast_in.grad.double(), 3 * slow_in.grad, atol=1e-7)


def test_equal_images_have_zero_loss_and_finite_gradient() -> None:
    a, _ = pair()
    b = a.clone().requires_grad_()
    loss = frequency_loss(b, a)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(b.grad).all()


def test_segmentation_loss_by_hand() -> None:
    logits = torch.tensor([[[[2.0, -1.0]], [[0.0, 3.0]]]])  # (1, 2, 1, 2)
    target = torch.tensor([[[0, 1]]])
    p = torch.softmax(logits, 1)[0, 1, 0]
    cross_entropy = -(torch.log(1 - p[0]) + torch.log(p[1])) / 2
    dice = (2 * p[1] + 1) / (p.sum() + 1 + 1)
    assert torch.allclose(segmentation_loss(logits, target), cross_entropy + 1 - dice)


def test_smoothed_labels_by_hand() -> None:
    logits, target = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0]]), torch.tensor([0, 2])
    logs = torch.log_softmax(logits, 1)
    shares = torch.tensor([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]])
    assert torch.allclose(classification_loss(logits, target, 0.1), -(shares * logs).sum(1).mean())
