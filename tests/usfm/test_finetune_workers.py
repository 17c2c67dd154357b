"""Two workers over gloo, without Ray: the batch is shared, rank 0 saves, both go on after a kill."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from shard_factory import VIEW

from usfm.models.bundle import load_bundle
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.journal import read_journal

ROOT = Path(__file__).resolve().parents[2]
# a straight run, a run that dies after its second report, and what goes on from it, in the same two processes
PROGRAM = """
import sys
from pathlib import Path
import torch.distributed
import yaml
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.torchrun import TorchrunContext

values, context = yaml.safe_load(Path(sys.argv[1]).read_text()), TorchrunContext()
seen, mortal = [], False
def report(metrics):
    seen.append(metrics["step"])
    if mortal and len(seen) == 2:
        raise KeyboardInterrupt
context.report = report
for name, mortal in (("straight", False), ("broken", True), ("broken", False)):
    seen.clear()
    try:
        finetune(FinetuneConfig.build({**values, "run_dir": f"{values['run_dir']}/{name}"}), context)
    except KeyboardInterrupt:
        pass
    print(name, seen, flush=True)
    torch.distributed.barrier()  # the first worker's last save is on the disk
context.close()
"""


def test_two_workers_go_on_together(small_shards: Path, tmp_path: Path) -> None:
    config = FinetuneConfig.build({
        "shards": str(small_shards), "run_dir": str(tmp_path), "task": {**VIEW, "canvas_px": 64},
        "encoder": {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.2},
        "steps": 7, "batch_size": 4, "eval_every": 2, "optim": {"lr": 2e-3, "base_batch": 4},
    })  # fmt: skip
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    (tmp_path / "program.py").write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    workers = []
    for rank in ("0", "1"):
        env = {
            **os.environ,
            **world,
            "RANK": rank,
            "LOCAL_RANK": rank,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "run.yaml")]
        workers.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for worker in workers:
        out, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors[-3000:]
        assert out.splitlines() == ["straight [2, 4, 6, 7]", "broken [2, 4]", "broken [6, 7]"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert list(read_journal(straight)) == list(read_journal(broken))
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (straight, broken))
    assert (one["value"], one["val_value"]) == (other["value"], other["val_value"])
    weights = [load_bundle(folder / "best")[0].state_dict() for folder in (straight, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not (broken / "state").exists()
