"""Reading weight files without running anything that is in them.

safetensors cannot hold code. A `.pth` file is a pickle and can: it is read by torch's weights-only unpickler, which
knows tensors and plain containers and refuses every other name. Two harmless containers of settings that well-known
files carry beside their weights (MAE's, SimMIM's) are read as plain dictionaries; their classes are never imported.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from usfm.errors import CheckpointError

__all__ = ["SAFETENSORS", "TORCH_FILES", "read_metadata", "read_tensors"]

SAFETENSORS = ".safetensors"
TORCH_FILES = (".pth", ".pt", ".bin", ".ckpt")
# keys under which training scripts put the weights, the first that is there counts
WRAPPERS = ("model", "state_dict", "teacher", "module", "backbone", "encoder")
# read as dictionaries: what training scripts keep of their settings
SETTINGS = ("argparse.Namespace", "yacs.config.CfgNode")


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a weight file, on the CPU.

    Returns:
        Tensors by the file's own keys without the wrapper ("model", "teacher", ...), and what was left out:
        name -> reason, for every entry beside the weights.

    Raises:
        CheckpointError: no such file, not a weight file, or a pickle that holds more than weights; it is not run.
    """
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    if path.suffix == SAFETENSORS:
        try:
            return load_file(path), {}
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    if path.suffix not in TORCH_FILES:
        known = ", ".join((SAFETENSORS, *TORCH_FILES))
        raise CheckpointError(f"{path} is not a weight file by its name; known endings: {known}")
    return _unwrap(path, _unpickle(path))


def read_metadata(path: Path) -> dict[str, str]:
    """The header's free text of a safetensors file.

    Raises:
        CheckpointError: not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None


def _unpickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(OrderedDict, name) for name in SETTINGS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        asked = f"it asks for {named[1]}" if named else str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} is a pickle that holds more than weights, which may be code; nothing of it was run ({asked}). "
            "Ask its authors for safetensors, or save only the tensors (torch.save(model.state_dict(), ...)) where "
            "you trust the file"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is not a file of torch.save, or it is damaged: {error}") from None


def _unwrap(path: Path, loaded: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    left: dict[str, str] = {}
    where: list[str] = []
    while isinstance(loaded, Mapping):
        tensors = {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}
        others = {str(key): value for key, value in loaded.items() if str(key) not in tensors}
        inner = next((key for key in WRAPPERS if isinstance(others.get(key), Mapping)), None)
        if inner is None:
            for key, value in others.items():
                left[".".join([*where, key])] = f"not a tensor but a {type(value).__name__}"
            if tensors:
                return tensors, left
            break
        for key in [*tensors, *others]:
            if key != inner:
                left[".".join([*where, key])] = f"beside the weights in {inner!r}"
        where.append(inner)
        loaded = others[inner]
    raise CheckpointError(
        f"{path} holds no weights by name: got a {type(loaded).__name__} at {'.'.join(where) or 'its top'}; "
        f"expected a state dict, alone or under one of {', '.join(WRAPPERS)}"
    )
