"""Pre-training under torchrun, without Ray: the same loop, plan, feed order and checkpoints.

    torchrun --nproc-per-node 8 -m usfm.train.torchrun --config run.yaml run_dir=runs/base optim.lr=3e-4

For clusters where a scheduler starts the processes (Slurm), and to measure what Ray costs. The run's folder must be
one that all nodes see. Restarts, and another number of workers, are torchrun's own `--max-restarts` and
`--nnodes MIN:MAX`: a run goes on from its newest checkpoint.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from pydantic import model_validator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from usfm.config import load_config
from usfm.data.stream import ImageStream
from usfm.errors import ConfigError, UsfmError
from usfm.train.checkpoint import latest_checkpoint
from usfm.train.determined import CUBLAS
from usfm.train.observe.check import check_observing
from usfm.train.pretrain import pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan, needs_even_lanes
from usfm.train.rundir import open_run
from usfm.train.start import check_start
from usfm.train.threaded_feed import threaded_feed

__all__ = ["TorchrunContext", "main"]

MAX_DECODE_THREADS = 8
PLACEMENT = {
    "workers", "resize_every_s", "gpus_per_worker", "cpus_per_worker", "max_failures", "start_timeout_s", "cluster",
}  # fmt: skip
"""Keys by which `usfm pretrain` has Ray place workers; torchrun places them itself."""
MAY_CHANGE = (*PLACEMENT, "speed", "checkpoint_every", "keep_checkpoints", "observe", "tracker", "nonfinite")


class TorchrunContext:
    """One process of torchrun, from its environment; starts torch.distributed, `close` ends it."""

    def __init__(self) -> None:
        """Join the others, over nccl where there is CUDA, else gloo.

        Raises:
            ConfigError: not started by torchrun.
        """
        try:
            self.rank, self.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            local, self.local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        except KeyError as error:
            raise ConfigError(
                f"{error.args[0]} is not set: start this with torchrun, e.g. `torchrun --nproc-per-node 2 -m "
                "usfm.train.torchrun --config run.yaml`"
            ) from None
        on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(self.device)
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")

    @property
    def decode_threads(self) -> int:
        """Threads that this process may decode with."""
        return min(MAX_DECODE_THREADS, max(1, (os.cpu_count() or 1) // self.local_size))

    def wrap(self, model: nn.Module) -> nn.Module:
        """DistributedDataParallel; a single worker needs none."""
        model = model.to(self.device)
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over workers."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def report(self, metrics: Mapping[str, Any]) -> None:
        """The first worker prints a line; everything is in the run's folder."""
        if self.rank == 0:
            print(f"step {metrics['step']}  loss {metrics['loss']:.4f}  {metrics['images_per_s']:.0f} images/s "
                  f"data wait {metrics['data_wait']:.1%}", flush=True)  # fmt: skip

    def close(self) -> None:
        """Leave the others."""
        torch.distributed.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="usfm.train.torchrun", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--config", help="YAML recipe of usfm pretrain; its keys for Ray are not used")
    parser.add_argument("--stop-after", type=int, help="end after this step, with a checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(argv)
    os.environ.setdefault(*CUBLAS)
    try:
        config = load_config(_Recipe, args.config, args.overrides)
        context = TorchrunContext()
        try:
            _run(config, context, args.stop_after)
        finally:
            context.close()
    except UsfmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class _Recipe(PretrainConfig):
    """A recipe of `usfm pretrain` without `PLACEMENT`."""

    @model_validator(mode="before")
    @classmethod
    def _placed_by_torchrun(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if unused := PLACEMENT & set(given):
            print(f"not used under torchrun: {', '.join(sorted(unused))}")
        return {key: value for key, value in given.items() if key not in PLACEMENT}


def _run(config: PretrainConfig, context: TorchrunContext, stop_after: int | None) -> None:
    stream = ImageStream(config.data, config.seed)
    plan = PretrainPlan.derive(config, stream, context.world_size, even=needs_even_lanes(config))
    if latest_checkpoint(Path(config.run_dir)) is None:
        check_start(config.start, plan.identity(config), plan.total_steps)
        for said in check_observing(config):
            if context.rank == 0:
                print(said)
    if context.rank == 0:
        open_run(Path(config.run_dir), config, plan.to_json(), may_change=MAY_CHANGE)
    torch.distributed.barrier()
    pretrain(
        config,
        context,
        lambda stream, plan: threaded_feed(stream, plan, config, context, context.decode_threads),
        stop_after,
        opened=True,
    )


if __name__ == "__main__":
    sys.exit(main())
