"""A Ray cluster of several nodes on this machine, whose nodes and workers can be killed."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil

__all__ = ["LocalCluster"]

CPUS_PER_NODE = 3  # with workers of 1.6 CPUs: one worker a node, and room for one reader beside it


class LocalCluster:
    """A head without CPUs, where driver and controller live, and nodes that each have room for one train worker.

    Use it in the main thread alone: Ray installs signal handlers when it adds a node.
    """

    def __init__(self, nodes: int) -> None:
        # else workers run at nice 15, and how soon they recover is up to whatever else this machine does
        os.environ.setdefault("RAY_worker_niceness", "0")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": 200 << 20, "include_dashboard": True, "dashboard_port": 0}
        self._cluster = Cluster(initialize_head=True, head_node_args=head, connect=False)
        self._nodes: list[Any] = []
        try:
            for _ in range(nodes):
                self.add_node()
        except BaseException:
            self.shutdown()
            raise

    @property
    def address(self) -> str:
        """Where a driver joins."""
        return str(self._cluster.address)

    def add_node(self) -> None:
        """One more node; returns when the cluster knows it."""
        self._nodes.append(self._cluster.add_node(num_cpus=CPUS_PER_NODE, object_store_memory=200 << 20))

    def lose_node(self) -> None:
        """Kill all processes of a node on which a worker trains."""
        node = next(node for node in self._nodes if _workers_of(node))
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        """Processes that train, in no particular order."""
        return [process for node in self._nodes for process in _workers_of(node)]

    def writer(self, run_dir: Path) -> psutil.Process | None:
        """The worker that writes a run: it holds the TensorBoard file open."""
        for worker in self.workers():
            try:
                if any(Path(file.path).is_relative_to(run_dir) for file in worker.open_files()):
                    return worker
            except psutil.Error:
                continue
        return None

    def clear_away_workers(self) -> None:
        """Kill the processes that train, also one that an event left stopped; their driver must be dead."""
        while workers := self.workers():
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    kill(worker)

    def shutdown(self) -> None:
        """Kill everything, also a worker that an event left stopped, which would not notice the end."""
        below = [process for node in self._nodes for process in _children_of(node)]
        self._cluster.shutdown()
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _workers_of(node: Any) -> list[psutil.Process]:
    return [process for process in _children_of(node) if "RayTrainWorker" in _title(process)]


def _children_of(node: Any) -> list[psutil.Process]:
    try:
        return psutil.Process(node.all_processes["raylet"][0].process.pid).children()
    except psutil.NoSuchProcess:
        return []


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(process: psutil.Process) -> None:
    """SIGKILL, and wait until it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
