"""The network of a fine-tuning run as it begins."""

from pathlib import Path

import torch

from usfm.kinds import output_count
from usfm.models.network import TaskNetwork
from usfm.models.task_model import TaskModel, build_model
from usfm.rng import stream_key
from usfm.train.finetune_config import SCRATCH, FinetuneConfig
from usfm.train.initial_weights import load_encoder

__all__ = ["first_network"]


def first_network(config: FinetuneConfig) -> TaskNetwork:
    """The network before its first step, a function of the config and of what lies at `init`.

    Raises:
        ConfigError: network, kind, head and encoder do not fit together.
        CheckpointError: nothing whole at `init`, or another network.
    """
    task = config.task
    torch.manual_seed(stream_key(config.seed, "init", task.name))
    outputs = output_count(task.kind, task.class_names)
    model = build_model(
        config.network,
        config.resolved_encoder(),
        task.kind,
        outputs,
        config.head,
        config.resolved_px(),
        config.pretrained,
    )
    if isinstance(model, TaskModel):
        if config.init != SCRATCH:
            load_encoder(model.encoder, Path(config.init))
        model.encoder.requires_grad_(not config.freeze_encoder)
    return model
