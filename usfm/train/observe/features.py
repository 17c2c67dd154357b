"""Features of a frozen encoder on the rows of a probe set."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.augment import whole_images
from usfm.data.probe_set import ProbeSet
from usfm.models.encoder import Encoder
from usfm.train.observe.untouched import untouched

__all__ = ["Features", "extract"]

BATCH = 64
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """What an encoder makes of a probe set.

    Attributes:
        pooled: (n, D) float32, mean of the patch tokens (what the authors' classification head reads).
        tokens: position of a row -> (G, G, D) float32 patch tokens; rows of segmentation tasks alone.
    """

    pooled: Floats
    tokens: dict[int, Floats]


def extract(encoder: Encoder, rows: ProbeSet, device: torch.device) -> Features:
    """Encode whole images in float32; the encoder and all generators are as before afterwards."""
    segmented = {int(row) for task in rows.tasks if task.kind == "segmentation" for row in task.rows}
    grid, side = encoder.config.grid, encoder.config.img_px
    pooled, tokens = [], {}
    with untouched(encoder):
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            canvases = torch.from_numpy(rows.image[part]).to(device)
            height, width = torch.from_numpy(rows.height[part]), torch.from_numpy(rows.width[part])
            patches = encoder(whole_images(canvases, height, width, side))[:, 1:].float()  # (B, N, D)
            pooled.append(patches.mean(dim=1).cpu().numpy())
            for n in range(len(patches)):
                if start + n in segmented:
                    tokens[start + n] = patches[n].reshape(grid, grid, -1).cpu().numpy()
    return Features(np.concatenate(pooled), tokens)
