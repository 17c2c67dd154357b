"""The command of pre-training, with steps that take at least `PACE_S`: `python -m chaos.paced --config ...`.

An outage of some seconds is then a bounded number of steps on any machine, and cannot outlast the run. Nothing else
differs from `python -m ray_jobs.pretrain`, and a pause changes no loss.
"""

import sys
import threading
import time
from typing import Any
from unittest.mock import patch

import ray_jobs.pretrain

__all__ = ["PACE_S", "main", "paced_worker"]

PACE_S = 0.25


def paced_worker(values: dict[str, Any]) -> dict[str, Any]:
    """What Ray runs on every train worker, which gets it by value and has the product's own `_train_worker`."""
    from ray_jobs.pretrain import _train_worker
    from usfm.train.pretrain_step import PretrainStep

    take = PretrainStep.take

    def paced(self: PretrainStep, *args: Any) -> dict[str, Any]:
        ends = time.monotonic() + PACE_S
        row = take(self, *args)
        threading.Event().wait(max(0.0, ends - time.monotonic()))
        return row

    with patch.object(PretrainStep, "take", paced):
        return _train_worker(values)


def main() -> int:
    """Command line, as of `ray_jobs.pretrain`."""
    with patch.object(ray_jobs.pretrain, "_train_worker", paced_worker):
        return ray_jobs.pretrain.main()


if __name__ == "__main__":
    sys.exit(main())
