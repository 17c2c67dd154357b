"""Look at a model without leaving a trace."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

__all__ = ["is_sharded", "untouched"]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every module and all generators are as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    model.eval()
    try:
        # no inference mode: it would mark buffers that a forward pass makes once and keeps; no compilation: other
        # shapes would use up the variants that training may have
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def is_sharded(model: nn.Module) -> bool:
    """Are parameters spread over workers (FSDP2)? Then a forward pass needs all of them."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
