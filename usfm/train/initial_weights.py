"""Where an encoder's weights come from: a run of ours, a checkpoint, a bundle, or a weight file."""

from pathlib import Path

from usfm.errors import CheckpointError, ConfigError
from usfm.file_hash import file_sha256
from usfm.models.bundle import SPEC, WEIGHTS, bundle_weights, is_bundle, read_bundle_spec
from usfm.models.encoder import Encoder, EncoderConfig
from usfm.models.weights.files import read_tensors
from usfm.models.weights.fit import fit_weights, grey_config, source_normalisation
from usfm.models.weights.grey import stated_normalisation
from usfm.models.weights.read import SourceWeights, explain_weights, read_weights
from usfm.models.weights.report import WeightsReport
from usfm.train.checkpoint import MODEL, STATE, latest_checkpoint, read_state, require_fit
from usfm.train.rundir import read_config

__all__ = ["encoder_config_of", "load_encoder", "read_source", "weights_hash", "whole_source"]

TRAINED, AVERAGED = "encoder.", "teacher."  # in front of an objective's parameters


def encoder_config_of(source: Path) -> EncoderConfig:
    """The network of a run, a checkpoint, a bundle, or a weight file; of a colour model its grey equal.

    Raises:
        CheckpointError: it is none of these.
        ConfigError: a weight file whose keys do not say how its input was normalised.
    """
    source = whole_source(source)
    if source.is_file():
        weights = read_weights(source)
        source_normalisation(weights)
        return grey_config(weights)
    if (source / SPEC).exists():
        return read_bundle_spec(source).need_encoder()
    run_dir = source.parent if (source / STATE).exists() else source
    try:
        return EncoderConfig.build(read_config(run_dir)["encoder"])
    except (ConfigError, KeyError) as error:
        raise CheckpointError(
            f"{source} is neither a pre-training run nor an exported model nor a weight file: {error}"
        ) from None


def weights_hash(source: Path) -> str:
    """SHA-256 (or its start) of the weights that `load_encoder` would take; names them in results.

    Raises:
        CheckpointError: no whole checkpoint there.
    """
    source = whole_source(source)
    if source.is_file():
        try:
            return file_sha256(source)
        except OSError as error:
            raise CheckpointError(f"cannot read {source}: {error}") from None
    if (source / SPEC).exists():
        return read_bundle_spec(source).version
    return str(read_state(_checkpoint(source))["sha256"][MODEL])


def read_source(source: Path, averaged: bool = False) -> SourceWeights:
    """The weights of any source, each key explained.

    Args:
        source: a run's folder, a checkpoint's folder, a bundle, or a weight file.
        averaged: of a run of the `teacher` objective, its averaged encoder with the trained one's mask token.

    Raises:
        CheckpointError: nothing there, damaged, not a ViT of a known layout, or no averaged encoder in it.
    """
    source = whole_source(source)
    if source.is_file():
        return read_weights(source)
    config = encoder_config_of(source)
    if (source / SPEC).exists():
        path, tensors = source / WEIGHTS, bundle_weights(source)
    else:
        path = _checkpoint(source) / MODEL
        tensors, _ = read_tensors(path)
    if averaged:
        kept = {TRAINED + key.removeprefix(AVERAGED): t for key, t in tensors.items() if key.startswith(AVERAGED)}
        if not kept:
            raise CheckpointError(f"{source} has no averaged encoder; only runs of objective.kind=teacher have one")
        tensors = kept | {key: t for key, t in tensors.items() if key == f"{TRAINED}mask_token"}
    return explain_weights(str(path), file_sha256(path), tensors, config=config)


def load_encoder(encoder: Encoder, source: Path, averaged: bool = False) -> WeightsReport:
    """Load an encoder's weights, fitted to its image side, channels and normalisation; every key is explained.

    A mask token that the encoder does not use is left out; one that the source lacks keeps its first values.

    Args:
        encoder: to fill.
        source: a run's folder, a checkpoint's folder, a bundle, or a weight file (`usfm weights`).
        averaged: see `read_source`.

    Returns:
        What became of every key of the source.

    Raises:
        CheckpointError: no whole checkpoint there, unexplained keys, or another network.
        ConfigError: a weight file whose keys do not say how its input was normalised.
    """
    weights = read_source(source, averaged)
    state = fit_weights(weights, encoder.config)
    if encoder.mask_token is None:
        state.pop("mask_token", None)
    else:
        state.setdefault("mask_token", encoder.mask_token.detach())
    require_fit(source, encoder, state, "leave `encoder` out to take the network of `init`")
    encoder.load_state_dict(state)
    return weights.report


def whole_source(source: Path) -> Path:
    """The checkpoint or bundle that a weight file is part of, or the weight file of a folder from timm's hub."""
    folder = source.parent
    if stated_normalisation(source) and not is_bundle(source):
        return source / WEIGHTS
    if source.is_file() and source.name == MODEL and ((folder / STATE).exists() or is_bundle(folder)):
        return folder
    return source


def _checkpoint(source: Path) -> Path:
    """The checkpoint's folder that a source means."""
    if (source / STATE).exists():
        return source
    if (found := latest_checkpoint(source)) is not None:
        return found
    raise CheckpointError(f"{source} holds no whole checkpoint yet; pre-train first, or set init=scratch")
