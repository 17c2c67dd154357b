import pytest
import torch
import torch.nn.functional as F
from torch import nn

from usfm.data.augment import whole_images
from usfm.errors import ConfigError
from usfm.models.windows import predict_canvas, predict_canvases


class PerPixel(nn.Module):
    """Two channels that each depend on their own pixel alone, so windows cannot disagree."""

    img_px = 32

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.shapes.append(images.shape)
        return torch.cat([images, 2 * images - 1], dim=1)


class Blur(nn.Module):
    """Restores nothing: says the mean of its square everywhere."""

    img_px = 16

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def canvas(height: int, width: int, side: int = 96) -> torch.Tensor:
    made = torch.zeros(side, side, dtype=torch.uint8)
    made[:height, :width] = torch.randint(1, 256, (height, width), generator=torch.Generator().manual_seed(3))
    return made


@pytest.mark.parametrize(("height", "width"), [(96, 96), (70, 45), (33, 32), (20, 90), (9, 11)])
def test_sliding_windows_of_a_pixelwise_network_are_the_image(height: int, width: int) -> None:
    image, model = canvas(height, width), PerPixel()
    answer = predict_canvas(model, image, height, width, mode="sliding", overlap=0.5)
    grey = image[:height, :width].float() / 255
    torch.testing.assert_close(answer, torch.stack([grey, 2 * grey - 1]), rtol=0, atol=1e-5)
    assert all(shape[1:] == (1, 32, 32) for shape in model.shapes)


def test_a_whole_image_is_squeezed_and_its_answer_brought_back() -> None:
    images = torch.stack([canvas(70, 45), canvas(50, 96)])
    height, width = torch.tensor([70, 50]), torch.tensor([45, 96])
    answers = predict_canvases(PerPixel(), images, height, width)
    squares = whole_images(images, height, width, 32)
    for answer, square, (h, w) in zip(answers, squares, ((70, 45), (50, 96)), strict=True):
        expected = F.interpolate(square[None], (h, w), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(answer, torch.cat([expected, 2 * expected - 1]))
    torch.testing.assert_close(predict_canvas(PerPixel(), images[1], 50, 96), answers[1])


def test_grey_values_and_bytes_are_the_same_image() -> None:
    image = canvas(70, 45)
    for mode in ("whole", "sliding"):
        stored, grey = (predict_canvas(PerPixel(), c, 70, 45, mode=mode) for c in (image, image.float() / 255))
        torch.testing.assert_close(stored, grey)


def test_a_residual_keeps_detail_finer_than_the_square() -> None:
    image = canvas(64, 64)
    grey = image[:64, :64].float() / 255
    square = whole_images(image[None], torch.tensor([64]), torch.tensor([64]), 16)
    change = F.interpolate(square.mean() - square, (64, 64), mode="bilinear", align_corners=False)[0]
    answer = predict_canvas(Blur(), image, 64, 64, residual=True)
    torch.testing.assert_close(answer, grey[None] + change)
    assert answer.std() > 0.8 * grey.std() > 8 * predict_canvas(Blur(), image, 64, 64).std()


def test_windows_that_do_not_move_on_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"overlap 1.0 is not in \[0, 1\)"):
        predict_canvas(PerPixel(), canvas(9, 9), 9, 9, mode="sliding", overlap=1.0)
