"""Weights of other people and of ours, read into our encoder exactly or not at all.

`read_weights` translates a file and explains every key; `fit_weights` fits the result to an encoder of another
image side, normalisation or number of channels; `save_released` writes the layout of the authors of USFM.
"""

from usfm.models.weights.fit import fit_weights, grey_config, source_normalisation
from usfm.models.weights.grey import NORMALISATIONS
from usfm.models.weights.layouts import LAYOUTS
from usfm.models.weights.read import SourceWeights, explain_weights, read_weights
from usfm.models.weights.released import released_keys, released_state, save_released
from usfm.models.weights.report import AUTHORS_SHA256, Key, WeightsReport

__all__ = [
    "AUTHORS_SHA256",
    "LAYOUTS",
    "NORMALISATIONS",
    "Key",
    "SourceWeights",
    "WeightsReport",
    "explain_weights",
    "fit_weights",
    "grey_config",
    "read_weights",
    "released_keys",
    "released_state",
    "save_released",
    "source_normalisation",
]
