"""The one place where Ray is configured: environment switches with their reasons, start and stop."""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Any

from usfm.config import Config
from usfm.errors import EnvironmentProblem

__all__ = [
    "RAY_ENVIRONMENT",
    "ClusterConfig",
    "connect",
    "quiet_loggers",
    "require",
    "set_environment",
    "set_start_timeout",
    "set_token",
]

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
RAY_ENVIRONMENT = {
    # Checked with Ray 2.60. Each is set only where the user has not set it.
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # V2's parquet reader loses rows when a path is listed twice
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own console shows one line per stage
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # reports are throttled to one per poll; the default is 2 s
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # without it the dashboard's Train page answers 500
    START_TIMEOUT: "120",  # a cold `import torch` on a busy node takes a while
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # 2-4 times the requests per second on one proxy
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # the line above turns it on: a port per replica, slow to undeploy
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # do not hide GPUs from tasks that ask for none
    "RAY_memory_usage_threshold": "0.98",  # the out-of-memory monitor looks at the node, not at Ray's share
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's new console prints its table whatever the verbosity
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves a hospital's network unasked
    "OMP_NUM_THREADS": "1",  # one thread per Ray CPU; a torch worker sets its own count
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same bits each time (`usfm.train.determined`)
}


class ClusterConfig(Config):
    """How to reach or start Ray.

    Attributes:
        address: "auto" joins RAY_ADDRESS or a submitted job's cluster if there is one, else starts a local
            one; "local" always starts one; anything else is an address to join.
        num_cpus: CPUs of a cluster that is started here; None = all of the machine, at least 2.
        num_gpus: the same for GPUs.
        object_store_mb: shared memory of a cluster that is started here.
    """

    address: str = "auto"
    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_mb: int = 1024


def set_environment() -> None:
    """Set Ray's switches; must run before `import ray` has started anything."""
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def set_start_timeout(seconds: float | None) -> None:
    """How long Ray Train waits for workers to start; None, and what a user has set, change nothing."""
    if seconds is not None and os.environ.get(START_TIMEOUT) in (None, RAY_ENVIRONMENT[START_TIMEOUT]):
        os.environ[START_TIMEOUT] = f"{seconds:g}"


def set_token() -> None:
    """A token for clusters that this process starts; must run before `import ray`, which reads it once."""
    # said, since the default differs between ray.init, ray start and clients; a joined cluster has its own
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # for the life of the process: a second cluster here must get the same
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def connect(config: ClusterConfig, verbose: bool = False) -> Iterator[str]:
    """Join or start Ray for the length of a block; joins the one that already runs in this process.

    What the block gets is the address of the dashboard, HOST:PORT; "" where it is not known.

    A cluster that is started here gets a token of its own in the environment, so that nothing is written to
    the home directory and no other user of the machine can submit work to it.
    """
    set_environment()
    address: str | None = config.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        set_token()
    import ray  # the switches above are read at import

    if ray.is_initialized():
        yield ""
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": verbose, "configure_logging": verbose}
    if not verbose:
        options["logging_level"] = logging.ERROR
        quiet_loggers()
    if address == "local":
        # Tune over Train leaks placement groups when the dashboard's state API is off
        options |= {"include_dashboard": True, "object_store_memory": config.object_store_mb << 20}
        options |= {"num_cpus": config.num_cpus or max(2, os.cpu_count() or 2), "num_gpus": config.num_gpus}
    dashboard = ray.init(**options).dashboard_url
    try:
        yield dashboard or ""
    finally:
        ray.shutdown()


def require(cpus: float, gpus: float = 0) -> None:
    """Refuse what the cluster can never place; Ray itself would wait for ever.

    Raises:
        EnvironmentProblem: fewer CPUs or GPUs than asked for, on a cluster that does not grow by itself.
    """
    import ray

    have = ray.cluster_resources()
    for name, wanted in {"CPU": cpus, "GPU": gpus}.items():
        if have.get(name, 0) < wanted:
            raise EnvironmentProblem(
                f"this job needs {wanted:g} {name}s (workers plus one for reading), the cluster has "
                f"{have.get(name, 0):g}; lower workers or {name.lower()}s_per_worker, or add nodes"
            )


def quiet_loggers() -> None:
    """Keep Ray's libraries to errors in this process; `--verbose` brings them back."""
    import ray.data
    import ray.serve  # noqa: F401  (importing these configures their loggers)

    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
