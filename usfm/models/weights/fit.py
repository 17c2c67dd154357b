"""Fitting weights that were read to the encoder that is wanted: channels, normalisation, image side."""

from collections.abc import Mapping
from statistics import fmean

import torch

from usfm.errors import CheckpointError, ConfigError
from usfm.models.encoder import EncoderConfig
from usfm.models.weights.grey import NORMALISATIONS, Normalisation, normalisation_of, refit_patch_embedding
from usfm.models.weights.layouts import LAYOUTS
from usfm.models.weights.read import SourceWeights
from usfm.models.weights.resize import resize_positions

__all__ = ["fit_weights", "grey_config", "source_normalisation"]

KERNEL, BIAS = "beit.patch_embed.proj.weight", "beit.patch_embed.proj.bias"
# what must be the same; the rest can be fitted
SAME = ("size", "patch_px", "positions", "final_norm")


def source_normalisation(source: SourceWeights, name: str | None = None) -> Normalisation:
    """What the weights expect of their input.

    Args:
        source: weights.
        name: a key of `NORMALISATIONS` that the user gives; None = what a config.json beside the file states, else
            what the layout is known to use.

    Raises:
        ConfigError: no such name, or one that has to be given is not.
    """
    if name is None:
        if source.stated is not None:
            return source.stated
        if LAYOUTS[source.report.layout].normalisation and not _colour_of_ours(source):
            return normalisation_of(source.config)
        raise ConfigError(
            f"{source.report.source}: the keys of a {source.report.layout} file do not say how its input was "
            "normalised. Convert it with `usfm weights FILE normalisation=NAME output=FOLDER` and use FOLDER; NAME "
            f"is one of {', '.join(NORMALISATIONS)} (half = mean and deviation 0.5, as BEiT and many timm models)"
        )
    if name not in NORMALISATIONS:
        raise ConfigError(f"normalisation={name} is not known; expected one of {', '.join(NORMALISATIONS)}")
    found = NORMALISATIONS[name]
    if source.config.channels == 1:
        return Normalisation((fmean(found.mean),), (fmean(found.std),))
    return found


def _colour_of_ours(source: SourceWeights) -> bool:
    """A bare file of ours with three channels: its config alone knew their means and deviations."""
    return source.report.layout == "ours" and source.config.channels == 3


def grey_config(source: SourceWeights) -> EncoderConfig:
    """The one-channel encoder that equals these weights on grey images."""
    return source.config.model_copy(update={"channels": 1})


def fit_weights(
    source: SourceWeights, target: EncoderConfig, normalisation: str | None = None
) -> dict[str, torch.Tensor]:
    """Weights for an encoder of another image side, number of channels or normalisation.

    Args:
        source: weights, every key explained.
        target: the encoder that will take them. Its mask token, where the source has none, is left out.
        normalisation: see `source_normalisation`.

    Returns:
        By the keys of `Encoder(target).state_dict()`, but perhaps `mask_token`.

    Raises:
        CheckpointError: unexplained keys, or another network.
        ConfigError: how the input was normalised is not known.
    """
    source.report.require_explained()
    _require_same(source, target)
    state: dict[str, torch.Tensor] = dict(source.state)
    before = source_normalisation(source, normalisation)
    state[KERNEL], state[BIAS] = refit_patch_embedding(state[KERNEL], state[BIAS], before, normalisation_of(target))
    if target.mask_token == "none":
        state.pop("mask_token", None)
    return resize_positions(state, target.grid)


def _require_same(source: SourceWeights, target: EncoderConfig) -> None:
    theirs: Mapping[str, object] = {**{key: getattr(source.config, key) for key in SAME}, **_scale(source.config)}
    ours: Mapping[str, object] = {**{key: getattr(target, key) for key in SAME}, **_scale(target)}
    wrong = [f"{key} is {theirs[key]}, wanted {ours[key]}" for key in theirs if theirs[key] != ours[key]]
    if wrong:
        raise CheckpointError(
            f"{source.report.source} does not fit this encoder: {'; '.join(wrong)}; leave `encoder` out to take "
            "the network of `init`"
        )


def _scale(config: EncoderConfig) -> dict[str, object]:
    return {"layer_scale": "there" if config.layer_scale else "absent"}
