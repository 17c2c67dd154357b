import numpy as np
import torch
import torch.nn.functional as F

from usfm.losses.frequency import frequency_loss
from usfm.losses.segmentation import segmentation_loss
from usfm.losses.spatial import spatial_loss

SIDE = 12


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, SIDE, SIDE, generator=g), torch.rand(2, 3, SIDE, SIDE, generator=g)


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


def test_focal_frequency_loss_equals_the_slow_version() -> None:
    a, b = pair()
    values = []
    for n, c in np.ndindex(2, 3):
        d = np.abs(slow_dft((a[n, c] - b[n, c]).numpy().astype(np.float64)))
        w = np.log(1 + d)
        values.append(np.mean(w / w.max() * d**2))
    assert np.isclose(float(frequency_loss(a, b)), np.mean(values), rtol=1e-5)


def test_without_focus_it_is_the_mean_squared_error() -> None:
    a, b = pair()
    assert torch.allclose(frequency_loss(a, b, focal=False), F.mse_loss(a, b), rtol=1e-5)  # Parseval


def test_support_restricts_the_spectrum() -> None:
    a, b = pair()
    support = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    support[0, 2:5, 3:9] = True
    support[1, :, 0] = True
    values = []
    for n, c in np.ndindex(2, 3):
        d = np.fft.fftshift(np.abs(slow_dft((a[n, c] - b[n, c]).numpy().astype(np.float64))))
        values += (d[support[n].numpy()] ** 2).tolist()
    assert np.isclose(float(frequency_loss(a, b, focal=False, support=support)), np.mean(values), rtol=1e-5)


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
