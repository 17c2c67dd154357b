"""What pre-training sees and answers: one image per organ on its way through the dual mask and the network."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from usfm.data.codec import decode_grey
from usfm.data.shard_reader import ShardReader
from usfm.errors import CheckpointError
from usfm.masking.patches import upsample_mask
from usfm.models.objective import ObjectiveOutput
from usfm.models.objectives import OBJECTIVES
from usfm.predict.predictor import whole_image
from usfm.report.samples import draw_row, held_out_first
from usfm.rng import stream_key
from usfm.train.checkpoint import latest_checkpoint, load_weights
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.rundir import read_config

__all__ = ["Panel", "reconstruction_panels", "run_config"]

Floats = npt.NDArray[np.float32]


def run_config(run_dir: Path) -> PretrainConfig:
    """The config of a pre-training run; keys that only say where it ran (workers, cluster) are left out.

    Raises:
        ConfigError: the folder holds no run, or not one of pre-training.
    """
    values = read_config(run_dir)
    return PretrainConfig.build({key: values[key] for key in PretrainConfig.model_fields if key in values})


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
        composite: the original where it is visible, the reconstruction where it is hidden.
        hidden: (S, S) bool, True = hidden.
        bands: numbers of the removed bands, the innermost is 0.
        spectrum: log magnitude of the original's centred spectrum, in [0, 1].
        spectrum_stopped: the same of `stopped`, on the same scale.
        error: mean |reconstruction - original| over hidden pixels.
        error_fill: mean |masked - original| over hidden pixels: what no reconstruction at all would give.
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
    error: float
    error_fill: float


def reconstruction_panels(run_dir: Path, organs: int = 8, seed: int = 0, shards: Path | None = None) -> list[Panel]:
    """Run the newest checkpoint of a pre-training run on one image of each of some organs.

    Images come from the validation split, else from the test split, else from training (`Panel.seen`). Organs
    that have held-out images go first, then those with more rows.

    Args:
        run_dir: folder of the run.
        organs: at most so many.
        seed: of the choice of images and masks.
        shards: folder of the shards; None = where the run's config says.

    Raises:
        CheckpointError: the run has no whole checkpoint.
        ShardError: the shards are missing.
    """
    config, folder = run_config(run_dir), latest_checkpoint(run_dir)
    if folder is None:
        raise CheckpointError(f"{run_dir} holds no whole checkpoint; start the run again to finish it")
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed).eval()
    load_weights(objective, folder)
    reader, sampling = ShardReader(shards or config.data.shards), config.data.sampling
    trained = reader.index.select(config.data.split, sampling.organs, sampling.exclude_organs)
    of_organ = {organ: held_out_first(reader.index, organ, config.data.split) for organ in trained}
    seen = {organ: files[0].split == config.data.split for organ, files in of_organ.items()}
    rows_of = {organ: sum(file.rows for file in files) for organ, files in trained.items()}
    chosen = sorted(sorted(of_organ, key=lambda organ: (seen[organ], -rows_of[organ]))[:organs])
    drawn = [draw_row(of_organ[organ], seed, "panels", organ) for organ in chosen]
    rows = [reader.take(f.path, np.array([row]), ["id", "image", "split"]).to_pylist()[0] for f, row in drawn]
    squares = [whole_image(decode_grey(r["image"]), config.encoder.img_px, config.data.canvas_px) for r in rows]
    index = torch.tensor([stream_key(seed, "panel mask", organ) for organ in chosen], dtype=torch.int64)
    with torch.inference_mode():
        images = torch.stack(squares)
        out: ObjectiveOutput = objective(images, index)
        hidden = upsample_mask(out.corrupted.tokens, config.encoder.patch_px)
    if out.reconstruction is None:
        return []  # this objective predicts no image
    return [
        _panel(organ, row["split"], seen[organ], row["id"], int(index[n]), images[n, 0], hidden[n], out, n)
        for n, (organ, row) in enumerate(zip(chosen, rows, strict=True))
    ]


def _panel(
    organ: str, split: str, seen: bool, row_id: str, index: int, image: torch.Tensor, hidden: torch.Tensor,
    out: ObjectiveOutput, n: int,
) -> Panel:  # fmt: skip
    stopped, masked = out.corrupted.stopped[n, 0], out.corrupted.images[n, 0]
    assert out.reconstruction is not None
    answer = out.reconstruction[n, 0]
    before, after = (torch.fft.fftshift(torch.fft.fft2(x)).abs().log1p() for x in (image, stopped))
    peak, somewhere = before.max().clamp(min=1e-6), bool(hidden.any())
    return Panel(
        organ, split, seen, row_id, index,
        image.numpy(), stopped.numpy(), masked.numpy(), answer.numpy(),
        torch.where(hidden, answer, image).numpy(), hidden.numpy(),
        tuple(out.corrupted.bands[n].nonzero()[:, 0].tolist()),
        (before / peak).numpy(), (after / peak).clamp(max=1).numpy(),
        float((answer - image).abs()[hidden].mean()) if somewhere else 0.0,
        float((masked - image).abs()[hidden].mean()) if somewhere else 0.0,
    )  # fmt: skip
