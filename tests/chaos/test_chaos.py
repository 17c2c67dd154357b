"""Three events on a cluster of two nodes; the long form with twenty is `make chaos`.

One worker here, so that the undisturbed run is the same loop in this very process; two workers and ranges of them
are in the long form.
"""

from pathlib import Path

import pytest
import torch
from chaos.session import ChaosSession
from chaos.watched_job import settings
from threads import torch_threads

from ray_jobs.pretrain import PretrainJobConfig
from usfm.train.context import PlainContext
from usfm.train.pretrain import local_feed, pretrain

KINDS = ["worker killed", "disk full", "driver killed"]
STEPS = 120


def plain_run(shards: Path, run_dir: Path, steps: int) -> Path:
    """The same run without Ray, on one thread as a worker has."""
    config = PretrainJobConfig.build(settings(str(shards), run_dir, steps)).science()
    context = PlainContext(torch.device("cpu"))
    with torch_threads(1):
        pretrain(config, context, lambda stream, plan: local_feed(stream, plan, config, context))
    return run_dir


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # on a busy machine a start alone may take minutes
def test_events_change_nothing(small_shards: Path, tmp_path: Path) -> None:
    reference = plain_run(small_shards, tmp_path / "plain", STEPS)
    with ChaosSession.open(tmp_path, small_shards, patience_s=240) as session:
        happened = list(session.disturbed("run", STEPS, KINDS, 3, reference, "workers=1"))
    print([event.to_json() for event in happened])
    assert [event.kind for event in happened] == KINDS
