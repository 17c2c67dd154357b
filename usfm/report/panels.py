"""Panels of a finished run: its newest checkpoint on one image of each of some organs."""

from pathlib import Path

import torch

from usfm.data.shard_reader import ShardReader
from usfm.errors import CheckpointError
from usfm.models.objectives import OBJECTIVES
from usfm.train.checkpoint import latest_checkpoint, load_weights
from usfm.train.observe.panels import Panel, draw_panels, panel_images
from usfm.train.pretrain_plan import PretrainConfig
from usfm.train.rundir import read_config

__all__ = ["reconstruction_panels", "run_config"]


def run_config(run_dir: Path) -> PretrainConfig:
    """The config of a pre-training run; keys that only say where it ran (workers, cluster) are left out.

    Raises:
        ConfigError: the folder holds no run, or not one of pre-training.
    """
    values = read_config(run_dir)
    return PretrainConfig.build({key: values[key] for key in PretrainConfig.model_fields if key in values})


def reconstruction_panels(run_dir: Path, organs: int = 8, seed: int = 0, shards: Path | None = None) -> list[Panel]:
    """Run the newest checkpoint of a pre-training run on one image of each of some organs.

    Args:
        run_dir: folder of the run.
        organs: at most so many, chosen as by `panel_images`.
        seed: of the choice of images and masks.
        shards: folder of the shards; None = where the run's config says.

    Returns:
        Panels in the order of organ names; none where the run's objective predicts no image.

    Raises:
        CheckpointError: the run has no whole checkpoint.
        ShardError: the shards are missing.
    """
    config, folder = run_config(run_dir), latest_checkpoint(run_dir)
    if folder is None:
        raise CheckpointError(f"{run_dir} holds no whole checkpoint; start the run again to finish it")
    objective = OBJECTIVES[config.objective.kind](config.encoder, config.objective, config.seed)
    load_weights(objective, folder)
    fixed = panel_images(
        ShardReader(shards or config.data.shards), config.data, config.encoder.img_px, organs, seed
    )
    return draw_panels(objective, fixed, torch.device("cpu"))
