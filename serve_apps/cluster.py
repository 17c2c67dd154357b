"""Ray as serving needs it: switches with their reasons, start or join, leave.

`ray_jobs/cluster.py` does the same for training; the two rooms do not know each other.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from typing import Any

from serve_apps.config import ServeConfig

__all__ = ["RAY_ENVIRONMENT", "connect", "set_environment"]

RAY_ENVIRONMENT = {
    # Checked with Ray 2.60. Each is set only where the user has not set it.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # 2-4 times the requests per second on one proxy
    # the line above also opens a port of its own on each HTTP replica, and then a stop takes 30 s of draining
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_worker_niceness": "0",  # 15 otherwise: behind all else on the machine, where the proxy may not even start
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # do not hide GPUs from actors that ask for none
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves a hospital's network unasked
}
OBJECT_STORE_MB = 512


def set_environment() -> None:
    """Set Ray's switches; must run before `import ray` has started anything."""
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@contextlib.contextmanager
def connect(config: ServeConfig, verbose: bool = False) -> Iterator[None]:
    """Join or start Ray for the length of a block.

    A cluster that is started here gets a token of its own in the environment: nothing is written to the
    home directory, and no other user of the machine can submit work to it. The token does not protect the
    HTTP port of Serve.
    """
    set_environment()
    address = config.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "local"
    own = address == "local"
    if own:
        # said, since the default differs between ray.init, ray start and clients; a joined cluster has its own
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # for the life of the process: Ray reads it once, and a second cluster here must get the same
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray  # the switches above are read at import

    options: dict[str, Any] = {"address": address, "log_to_driver": verbose, "configure_logging": verbose}
    if not verbose:
        options["logging_level"] = logging.ERROR
        quiet_loggers()
    if own:
        options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_MB << 20}
        options |= {"num_cpus": config.num_cpus or os.cpu_count()}
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def quiet_loggers() -> None:
    """Keep Ray and Serve to errors in this process; `--verbose` brings them back."""
    import ray.serve  # noqa: F401  (its import configures its logger)

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
