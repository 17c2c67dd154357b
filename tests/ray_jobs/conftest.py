"""One Ray cluster for the tests of this folder: to start and end one takes ten seconds and more; and small runs."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from shard_factory import HEAD, VIEW
from threads import torch_threads

from ray_jobs.cluster import ClusterConfig, connect
from usfm.data.stream import ImageStream
from usfm.train.context import PlainContext
from usfm.train.finetune import finetune
from usfm.train.finetune_config import FinetuneConfig
from usfm.train.pretrain import local_feed, pretrain
from usfm.train.pretrain_plan import PretrainConfig, PretrainPlan
from usfm.train.rundir import open_run

FOLDER = Path(__file__).parent
CLUSTER = ClusterConfig(address="local", num_cpus=2, object_store_mb=512)
SHARED = ExitStack()
ENCODER = {"size": "nano", "img_px": 32, "patch_px": 8, "drop_path": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread, as the workers have: this process is compared with them bit for bit."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """The variables that lead to an S3 server of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture(scope="module")
def ray_cluster(s3_environment: dict[str, str]) -> None:
    """A local Ray cluster of two CPUs, which the modules of this folder share; its workers know the S3 server."""
    import ray

    if not ray.is_initialized():
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_environment.items():
                patch.setenv(name, value)
            SHARED.enter_context(connect(CLUSTER))


@pytest.hookimpl(trylast=True)  # after the fixtures of the last module
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the shared cluster with the last test of this folder; other tests do not run beside it."""
    if nextitem is None or FOLDER not in nextitem.path.parents:
        SHARED.close()


@pytest.fixture(scope="session")
def pretrained(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run of four steps on two of the three organs."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = PretrainConfig.build({
        "run_dir": str(folder), "encoder": ENCODER, "objective": {"spatial_mask": {"unit_px": 8}},
        "data": {"shards": str(small_shards), "canvas_px": 64,
                 "sampling": {"chunk_size": 24, "exclude_organs": ["kidney"]}},
        "batch": {"global_size": 8, "micro_size": 8}, "epochs": 1, "epoch_samples": 32, "optim": {"lr": 0.01},
    })  # fmt: skip
    plan = PretrainPlan.derive(config, ImageStream(config.data, config.seed), 1)
    open_run(folder, config, plan.to_json())
    context = PlainContext(torch.device("cpu"))
    with torch_threads(1):
        pretrain(config, context, lambda stream, made: local_feed(stream, made, config, context))
    return folder


@pytest.fixture(scope="session", params=[HEAD, VIEW], ids=["segmentation", "classification"])
def finetuned(
    request: pytest.FixtureRequest, small_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> FinetuneConfig:
    """A fine-tuning run of a few steps."""
    folder = tmp_path_factory.mktemp("finetuned")
    config = FinetuneConfig.build({
        "run_dir": str(folder), "shards": str(small_shards), "task": {**request.param, "canvas_px": 64},
        "encoder": ENCODER, "steps": 6, "batch_size": 8, "eval_every": 3, "optim": {"lr": 1e-3, "base_batch": 8},
    })  # fmt: skip
    open_run(folder, config, {})
    with torch_threads(1):
        finetune(config, PlainContext())
    return config
