"""An encoder as one ONNX file, checked against torch before it counts as written.

Input `images`: (batch, 1, S, S) float32 grey values in [0, 1]; normalisation is inside. Output `tokens`:
(batch, 1 + N, D), CLS first. The batch is free, the image side is not.
"""

import logging
import warnings
from pathlib import Path

import torch

from usfm.errors import CheckpointError, EnvironmentProblem
from usfm.models.encoder import Encoder

__all__ = ["LARGEST_DIFFERENCE", "write_onnx"]

LARGEST_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 3)  # neither is the one that it is traced with


def write_onnx(encoder: Encoder, path: Path) -> float:
    """Write and check.

    Args:
        encoder: on the CPU; it is traced in eval mode.
        path: the file.

    Returns:
        The largest absolute difference of a token between onnxruntime and torch, on random images.

    Raises:
        EnvironmentProblem: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: the difference is above `LARGEST_DIFFERENCE`; the file is removed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise EnvironmentProblem(
            f"ONNX export needs {error.name}: pip install 'usfm-ray[onnx]', or leave onnx out"
        ) from None
    encoder = encoder.eval()
    side = encoder.config.img_px
    draw = torch.Generator().manual_seed(0)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch.onnx and onnxscript about themselves
        program = torch.onnx.export(
            encoder,
            (torch.rand(2, 1, side, side, generator=draw),),
            dynamo=True,
            input_names=["images"],
            output_names=["tokens"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        if program is None:
            raise CheckpointError(f"torch.onnx could not trace this encoder; {path} was not written")
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, 1, side, side, generator=draw)
        with torch.inference_mode():
            expected = encoder(images)
        (tokens,) = session.run(["tokens"], {"images": images.numpy()})
        worst = max(worst, float((torch.from_numpy(tokens) - expected).abs().max()))
    if not worst <= LARGEST_DIFFERENCE:  # also NaN
        path.unlink()
        raise CheckpointError(
            f"the ONNX file differs from torch by {worst:.2g} (at most {LARGEST_DIFFERENCE:g} is accepted); {path} "
            "was removed"
        )
    return worst
