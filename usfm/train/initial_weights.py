"""Where an encoder's weights come from: a pre-training run of ours, or an exported bundle."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from usfm.errors import CheckpointError, ConfigError
from usfm.models.bundle import SPEC, WEIGHTS, BundleSpec
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.train.checkpoint import MODEL, latest_checkpoint, read_state, require_fit
from usfm.train.rundir import read_config

__all__ = ["encoder_config_of", "load_encoder", "weights_hash"]


def encoder_config_of(source: Path) -> EncoderConfig:
    """The network of a pre-training run or a bundle.

    Raises:
        CheckpointError: the folder is neither.
    """
    if (source / SPEC).exists():
        return BundleSpec.build(json.loads((source / SPEC).read_text(encoding="utf-8"))).encoder
    try:
        return EncoderConfig.build(read_config(source)["encoder"])
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{source} is neither a pre-training run nor an exported model: {error}") from None


def weights_hash(source: Path) -> str:
    """SHA-256 (or its start) of the weights that `load_encoder` would take; names them in results.

    Raises:
        CheckpointError: no whole checkpoint there.
    """
    if (source / SPEC).exists():
        return BundleSpec.build(json.loads((source / SPEC).read_text(encoding="utf-8"))).version
    if (found := latest_checkpoint(source)) is not None:
        return str(read_state(found)["sha256"][MODEL])
    raise CheckpointError(f"{source} holds no whole checkpoint yet; pre-train first, or set init=scratch")


def load_encoder(encoder: Encoder, source: Path) -> None:
    """Load an encoder's weights; every key must fit, but a mask token that downstream does not use.

    Raises:
        CheckpointError: no whole checkpoint there, or keys or shapes differ.
    """
    if (source / SPEC).exists():
        path = source / WEIGHTS
    elif (found := latest_checkpoint(source)) is not None:
        path = found / MODEL
    else:
        raise CheckpointError(f"{source} holds no whole checkpoint yet; pre-train first, or set init=scratch")
    weights: dict[str, torch.Tensor] = load_file(path)
    if any(key.startswith("encoder.") for key in weights):
        weights = {k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")}
    if encoder.mask_token is None:
        weights.pop("mask_token", None)
    require_fit(path, encoder, weights, "leave `encoder` out to take the size and image side of `init`")
    encoder.load_state_dict(weights)
