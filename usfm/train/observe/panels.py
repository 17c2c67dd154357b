"""What pre-training sees and answers: one image per organ on its way through the dual mask and the network.

Images and masks are fixed by a seed, so panels of different steps, and of the report, show the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.augment import whole_images
from usfm.data.codec import decode_grey
from usfm.data.held_out import draw_row, held_out_first
from usfm.data.shard_reader import ShardReader
from usfm.data.stream import StreamConfig
from usfm.errors import ShardError
from usfm.masking.patches import upsample_mask
from usfm.models.objective import Objective, ObjectiveOutput
from usfm.rng import stream_key
from usfm.train.observe.untouched import untouched

__all__ = ["Panel", "PanelImages", "draw_panels", "panel_images"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PanelImages:
    """The fixed images of a run's panels, one per organ, in name order.

    Attributes:
        organs: names.
        splits: where each image comes from.
        seen: True = an image of the training split.
        ids: row ids.
        index: (n,) int64, decides the masks.
        images: (n, 1, S, S) float32 grey values in [0, 1].
    """

    organs: list[str]
    splits: list[str]
    seen: list[bool]
    ids: list[str]
    index: torch.Tensor
    images: torch.Tensor


@dataclass(frozen=True)
class Panel:
    """One image on its way through the dual mask and the network; all images (S, S) float32 grey, about [0, 1].

    Attributes:
        organ: organ name.
        split: where the image comes from.
        seen: True = an image of the training split.
        row_id: id of its row.
        index: sample index that decided the masks.
        original: what the losses compare with.
        stopped: after the band-stop.
        masked: after band-stop and patch mask: what the encoder sees.
        reconstruction: the network's answer.
        composite: the original where it is visible, the reconstruction where it is hidden; where no patch is
            hidden, the reconstruction.
        hidden: (S, S) bool, True = hidden.
        bands: numbers of the removed bands, the innermost is 0.
        spectrum: log magnitude of the original's centred spectrum, in [0, 1].
        spectrum_stopped: the same of `stopped`, on the same scale.
        spectrum_reconstruction: the same of `reconstruction`.
        error: mean |reconstruction - original| over hidden pixels; over all where no patch is hidden.
        error_fill: mean |masked - original| over the same: what no reconstruction at all would give.
    """

    organ: str
    split: str
    seen: bool
    row_id: str
    index: int
    original: Floats
    stopped: Floats
    masked: Floats
    reconstruction: Floats
    composite: Floats
    hidden: npt.NDArray[np.bool_]
    bands: tuple[int, ...]
    spectrum: Floats
    spectrum_stopped: Floats
    spectrum_reconstruction: Floats
    error: float
    error_fill: float


def panel_images(reader: ShardReader, data: StreamConfig, img_px: int, organs: int, seed: int) -> PanelImages:
    """Draw the images: from the validation split, else from the test split, else from the training split.

    Organs that have held-out images go first, then those with more rows.

    Args:
        reader: the shards.
        data: which organs and which split are trained on.
        img_px: side of the network's input.
        organs: at most so many.
        seed: of the choice of images and masks.

    Raises:
        ShardError: the shards are missing, or an image is larger than the canvas.
    """
    trained = reader.index.select(data.split, data.sampling.organs, data.sampling.exclude_organs)
    of_organ = {organ: held_out_first(reader.index, organ, data.split) for organ in trained}
    seen = {organ: files[0].split == data.split for organ, files in of_organ.items()}
    rows_of = {organ: sum(file.rows for file in files) for organ, files in trained.items()}
    chosen = sorted(sorted(of_organ, key=lambda organ: (seen[organ], -rows_of[organ]))[:organs])
    drawn = [draw_row(of_organ[organ], seed, "panels", organ) for organ in chosen]
    rows = [reader.take(f.path, np.array([row]), ["id", "image", "split"]).to_pylist()[0] for f, row in drawn]
    return PanelImages(
        chosen,
        [row["split"] for row in rows],
        [seen[organ] for organ in chosen],
        [row["id"] for row in rows],
        torch.tensor([stream_key(seed, "panel mask", organ) for organ in chosen], dtype=torch.int64),
        _squares([decode_grey(row["image"]) for row in rows], data.canvas_px, img_px),
    )


def _squares(stored: list[npt.NDArray[np.uint8]], canvas_px: int, img_px: int) -> torch.Tensor:
    """Whole images as the network's input, (n, 1, S, S) float32 in [0, 1]."""
    canvases = np.zeros((len(stored), canvas_px, canvas_px), np.uint8)
    for canvas, pixels in zip(canvases, stored, strict=True):
        if max(pixels.shape) > canvas_px:
            raise ShardError(f"a stored image has {pixels.shape} px; set data.canvas_px to {max(pixels.shape)}")
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
    height, width = (torch.tensor([pixels.shape[axis] for pixels in stored]) for axis in (0, 1))
    return whole_images(torch.from_numpy(canvases), height, width, img_px)


def draw_panels(objective: Objective, fixed: PanelImages, device: torch.device) -> list[Panel]:
    """Run the images through an objective, in float32; it and all generators are as before afterwards.

    Returns:
        One panel per organ; none where the objective predicts no image.
    """
    with untouched(objective):
        out: ObjectiveOutput = objective(fixed.images.to(device), fixed.index.to(device))
        if out.reconstruction is None:
            return []
        hidden = upsample_mask(out.corrupted.tokens, objective.encoder.config.patch_px).cpu()
        answers, stopped, masked = (
            x[:, 0].float().cpu() for x in (out.reconstruction, out.corrupted.stopped, out.corrupted.images)
        )
        bands = out.corrupted.bands.cpu()
    return [
        _panel(fixed, n, stopped[n], masked[n], answers[n], hidden[n], bands[n]) for n in range(len(fixed.organs))
    ]


def _panel(
    fixed: PanelImages, n: int, stopped: torch.Tensor, masked: torch.Tensor, answer: torch.Tensor,
    hidden: torch.Tensor, bands: torch.Tensor,
) -> Panel:  # fmt: skip
    image = fixed.images[n, 0]
    before, after, answered = (
        torch.fft.fftshift(torch.fft.fft2(x)).abs().log1p() for x in (image, stopped, answer)
    )
    peak = before.max().clamp(min=1e-6)
    counted = hidden if bool(hidden.any()) else torch.ones_like(hidden)
    return Panel(
        fixed.organs[n], fixed.splits[n], fixed.seen[n], fixed.ids[n], int(fixed.index[n]),
        image.numpy(), stopped.numpy(), masked.numpy(), answer.numpy(),
        torch.where(counted, answer, image).numpy(), hidden.numpy(), tuple(bands.nonzero()[:, 0].tolist()),
        (before / peak).numpy(), (after / peak).clamp(max=1).numpy(), (answered / peak).clamp(max=1).numpy(),
        float((answer - image).abs()[counted].mean()), float((masked - image).abs()[counted].mean()),
    )  # fmt: skip
