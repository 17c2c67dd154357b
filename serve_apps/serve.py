"""`usfm serve`: start or join Ray, deploy the application, print its address, serve until Ctrl-C."""

import argparse
import json
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from serve_apps.cluster import connect
from serve_apps.config import ServeConfig, served_specs
from usfm.config import load_config
from usfm.errors import EnvironmentProblem, UsfmError

__all__ = ["deploy", "main", "plan", "undeploy"]

POLL_S = 0.2


def deploy(config: ServeConfig, blocking: bool = False) -> str:
    """Deploy the application on the Ray of this process, which must be initialised, and wait until it is healthy.

    Args:
        config: what to serve.
        blocking: stay until Ctrl-C or SIGTERM.

    Returns:
        The address, e.g. "http://127.0.0.1:8000".

    Raises:
        ConfigError: no bundles are named, or two have one name.
        CheckpointError: a folder is not a bundle.
        EnvironmentProblem: the port is taken, or the proxy or the models did not get ready in time.
    """
    from ray import serve
    from ray.exceptions import RayError

    from serve_apps.app import APP_NAME, build

    app = build(config)
    if serve.status().proxies:  # a Serve that runs already keeps its own address
        if not config.port:
            raise EnvironmentProblem(
                "Serve already runs on this cluster; give the port it listens on, e.g. port=8000"
            )
    else:
        config = config.model_copy(update={"port": free_port(config.host, config.port)})
        http = {"host": config.host, "port": config.port, "request_timeout_s": config.request_timeout_s}
        try:
            serve.start(http_options=http, logging_config={"enable_access_log": False})
        except (RayError, TimeoutError) as error:
            raise EnvironmentProblem(
                f"Serve's HTTP proxy did not start: {_last_line(error)} Most likely the machine has no time or "
                "memory left for it; see `ray status` and the load, and try again"
            ) from None
    url = f"http://{'127.0.0.1' if config.host == '0.0.0.0' else config.host}:{config.port}"
    try:
        serve.run(app, name=APP_NAME, route_prefix="/", logging_config={"enable_access_log": False})
    except RuntimeError as error:
        raise EnvironmentProblem(f"the application could not be deployed: {_last_line(error)}") from None
    wait_healthy(url, config.startup_timeout_s)
    if blocking:
        _wait_for_stop()
    return url


def undeploy() -> None:
    """Take the application off; Serve and Ray go on."""
    from ray import serve

    from serve_apps.app import APP_NAME

    serve.delete(APP_NAME)


def free_port(host: str, port: int) -> int:
    """The port itself if it can be listened on, any free one for 0.

    Raises:
        EnvironmentProblem: it is taken, not allowed, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot listen on {host}:{port} ({error.strerror or error}); stop what uses it or choose another, "
            "e.g. port=8001, or port=0 for any free one"
        ) from None


def wait_healthy(url: str, timeout_s: float) -> None:
    """Return when /healthz answers 200.

    Raises:
        EnvironmentProblem: it did not in time; says what it answered last.
    """
    until, last = time.monotonic() + timeout_s, "no answer"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a local address, never a proxy's
    while time.monotonic() < until:
        try:
            with opener.open(f"{url}/healthz", timeout=10):
                return
        except urllib.error.HTTPError as error:
            last = error.read().decode(errors="replace")[:300]
        except OSError as error:
            last = str(error)
        time.sleep(POLL_S)
    raise EnvironmentProblem(
        f"{url}/healthz was not healthy within {timeout_s:g} s (last: {last}); "
        "run again with --verbose, or raise startup_timeout_s"
    )


def plan(config: ServeConfig) -> dict[str, Any]:
    """What would be served; reads the bundles' specs and touches nothing."""
    return {
        "listen": f"{config.host}:{config.port}",
        "models": [
            {
                "name": spec.name,
                "kind": spec.kind,
                "classes": spec.classes,
                "version": spec.version,
                "licences": spec.licences,
                "input_px": spec.img_px,
                "bundle": str(folder),
            }
            for folder, spec in served_specs(config)
        ],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0 when stopped by hand, 2 when the user has something to mend."""
    parser = argparse.ArgumentParser(
        prog="usfm serve",
        description="Serve model bundles over HTTP, with a web page at /.",
        epilog="Overrides are key=value, e.g. bundles=runs/demo/sweep/best/fetal_head port=9000.",
    )
    parser.add_argument("--config", help="YAML file")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config and models, touch nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="show Ray's own messages")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    try:
        config = load_config(ServeConfig, args.config, args.overrides)
        models = plan(config)  # a wrong folder is told before Ray starts
        if args.dry_run:
            print(config.to_yaml() + "--- plan\n" + json.dumps(models, indent=2))
            return 0
        _serve(config, args.verbose)
    except UsfmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(config: ServeConfig, verbose: bool) -> None:
    with connect(config, verbose):
        url = deploy(config)
        names = ", ".join(f"{spec.name} ({spec.kind})" for _, spec in served_specs(config))
        print(f"serving {names}\n{url}  (Ctrl-C stops)", flush=True)
        try:
            _wait_for_stop()
        finally:
            undeploy()  # lets requests in flight finish
        print("stopped")


def _wait_for_stop() -> None:
    """Block until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
