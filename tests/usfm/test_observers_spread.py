"""Two processes over gloo: a spread run is observed like a whole one, whether replicas or shards."""

from pathlib import Path

import pytest
from shard_factory import VIEW
from test_parallel import config_of, torchrun

from usfm.train.journal import read_journal

OBSERVE = {"every": 3, "panels": 2, "probe": {"tasks": [VIEW], "neighbours": 5, "bootstrap": 0}}


@pytest.mark.slow
@pytest.mark.timeout(600)  # four processes import torch
def test_shards_are_observed_like_replicas(small_shards: Path, tmp_path: Path) -> None:
    rows = {}
    for parallel in ("ddp", "fsdp"):
        run_dir = tmp_path / parallel / "run"
        torchrun(config_of(small_shards, run_dir, observe=OBSERVE, speed={"parallel": parallel}))
        rows[parallel] = list(read_journal(run_dir))
        assert len(list((run_dir / "panels").iterdir())) == 2
    for ours, theirs in zip(rows["ddp"], rows["fsdp"], strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            if name.startswith(("grad/", "rank/", "mix/")):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    observed = rows["fsdp"][2]
    assert {"probe/view/linear_macro_f1", "rank/rankme", "grad/decoder"} <= set(observed)
    squares = sum(value**2 for name, value in observed.items() if name.startswith("grad/"))
    assert squares**0.5 == pytest.approx(observed["grad_norm"], rel=1e-4)
