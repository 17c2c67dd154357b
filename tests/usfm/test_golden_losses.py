"""Thirty steps of dual masked image modelling against losses that were written down once.

`python tests/usfm/test_golden_losses.py` writes them anew, after a change that is meant to change them; the commit
says why.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from shard_factory import write_small_shards  # noqa: E402

from usfm.train.context import PlainContext  # noqa: E402
from usfm.train.journal import read_journal  # noqa: E402
from usfm.train.pretrain import local_feed, pretrain  # noqa: E402
from usfm.train.pretrain_plan import PretrainConfig  # noqa: E402

GOLDEN = HERE / "golden_losses.json"
NAMES = ("loss", "spatial", "frequency", "grad_norm", "lr")
RELATIVE = {"loss": 2e-4, "spatial": 2e-4, "frequency": 2e-3, "grad_norm": 2e-2, "lr": 1e-12}
"""Other processors add up in another order, and thirty steps carry that on."""
TORCH = "2.15"
"""Of constraints.txt. With 2.11 the first loss is another one by 0.13 % and the thirtieth by 0.4 %."""


def thirty_steps(shards: Path, run_dir: Path, device: str = "cpu") -> list[dict[str, float]]:
    """The paper's defaults at a small size: figure bands, mean fill, added mask token, focal loss; in float32."""
    config = PretrainConfig.build({
        "run_dir": str(run_dir), "seed": 11,
        "data": {"shards": str(shards), "canvas_px": 64, "sampling": {"chunk_size": 24}},
        "encoder": {"size": "nano", "img_px": 64, "patch_px": 8},
        "objective": {"spatial_mask": {"unit_px": 16}},
        "batch": {"global_size": 16, "micro_size": 8}, "epochs": 1, "epoch_samples": 480, "optim": {"lr": 0.01},
        "precision": "fp32",
    })  # fmt: skip
    context = PlainContext(torch.device(device))
    pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context))
    return [{name: row[name] for name in NAMES} for row in read_journal(run_dir)]


def test_the_losses_were_written_down_with_the_pinned_torch() -> None:
    pins = (HERE.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    assert f"\ntorch=={TORCH}." in pins, "write the losses anew (see above), and TORCH"


@pytest.mark.skipif(not torch.__version__.startswith(f"{TORCH}."), reason=f"written down with torch {TORCH}")
def test_thirty_steps_give_the_losses_that_were_written_down(small_shards: Path, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    rows = thirty_steps(small_shards, tmp_path)
    assert len(rows) == len(golden) == 30
    for name, relative in RELATIVE.items():
        got, wanted = (np.array([row[name] for row in which]) for which in (rows, golden))
        assert got == pytest.approx(wanted, rel=relative), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = thirty_steps(write_small_shards(Path(folder) / "shards"), Path(folder) / "run")
    GOLDEN.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in made) + "\n]\n", encoding="utf-8")
