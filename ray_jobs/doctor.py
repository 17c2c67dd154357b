"""`usfm doctor`: is this machine ready, and what to do about each problem."""

import argparse
import importlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ray_jobs.console import Console

__all__ = ["CHECKS", "Finding", "main"]

Level = Literal["ok", "note", "fix"]
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One check's answer. "fix" means that jobs will fail; "note" that they run, slower or with less."""

    check: str
    level: Level
    found: str
    advice: str = ""


def python_version() -> Finding:
    """Which Python; an older one than 3.11 cannot even install the package."""
    return Finding("Python", "ok", ".".join(map(str, sys.version_info[:3])))


def torch_and_cuda() -> Finding:
    """Torch imports; which device it sees."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding("torch", "fix", str(error), "run `make install`")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("torch", "ok", f"{torch.__version__}, CUDA: {names}")
    advice = "training runs on the CPU; for GPUs check the driver with nvidia-smi and the CUDA build of torch"
    return Finding("torch", "note", f"{torch.__version__}, no CUDA device", advice)


def timm_and_torchvision() -> Finding:
    """Torchvision must come from the same build family as torch, or timm does not import."""
    try:
        importlib.import_module("timm.models.beit")
    except (ImportError, RuntimeError) as error:
        advice = "torch and torchvision are of different builds; install both from the same index (`make install`)"
        return Finding("timm", "fix", str(error).splitlines()[0], advice)
    return Finding("timm", "ok", metadata.version("timm"))


def ray_version() -> Finding:
    """The version that was tested, or newer."""
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return Finding("Ray", "fix", "not installed", "run `make install`")
    if tuple(map(int, version.split(".")[:2])) < (2, 60):
        return Finding("Ray", "fix", version, 'pip install -U "ray[data,default,serve,train,tune]>=2.60"')
    return Finding("Ray", "ok", version)


def ray_address() -> Finding:
    """RAY_ADDRESS decides whether jobs join a cluster."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("Ray cluster", "ok", "RAY_ADDRESS is not set: every job starts its own local cluster")
    host, _, port = address.removeprefix("ray://").removeprefix("http://").partition(":")
    if address == "auto" or _answers(host, int(port or 6379)):
        return Finding("Ray cluster", "ok", f"jobs join {address}")
    return Finding("Ray cluster", "fix", f"nothing answers at {address}", "start the cluster, or unset RAY_ADDRESS")


def free_ports() -> Finding:
    """8265 is Ray's dashboard, 8000 Serve."""
    taken = [port for port in (8000, 8265) if _answers("127.0.0.1", port)]
    if not taken:
        return Finding("ports", "ok", "8000 (Serve) and 8265 (dashboard) are free")
    advice = "another port is taken by itself for the dashboard; for serving give e.g. `usfm serve port=8001`"
    return Finding("ports", "note", f"in use: {', '.join(map(str, taken))}", advice)


def processors() -> Finding:
    """Two CPUs at least: one trains, one reads."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count < 2:
        advice = "use pretrain workers=1 cpus_per_worker=0.5 cluster.num_cpus=2; it will be slow"
        return Finding("CPUs", "note", str(count), advice)
    return Finding("CPUs", "ok", str(count))


def memory() -> Finding:
    """Ray and torch need about 1 GiB per process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if total < 8:
        return Finding("memory", "note", f"{total:.0f} GiB", "the demo needs about 8 GiB; close other programs")
    return Finding("memory", "ok", f"{total:.0f} GiB")


def disk() -> Finding:
    """Room for the environment, shards and checkpoints."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    if free < 2:
        return Finding("disk", "fix", f"{free:.1f} GiB free here", "free at least 2 GiB, or run from another disk")
    return Finding("disk", "ok" if free > 10 else "note", f"{free:.0f} GiB free here",
                   "" if free > 10 else "the environment with CUDA packages takes about 7 GiB")  # fmt: skip


def shared_memory() -> Finding:
    """Ray's object store lives in /dev/shm on Linux."""
    shm = Path("/dev/shm")
    if not shm.exists():
        return Finding("shared memory", "note", "no /dev/shm on this system", "Ray uses the disk instead; slower")
    free = shutil.disk_usage(shm).free / GIB
    if free < 1:
        advice = "in a container: start it with --shm-size=4g; else lower cluster.object_store_mb"
        return Finding("shared memory", "fix", f"{free:.2f} GiB free in /dev/shm", advice)
    return Finding("shared memory", "ok", f"{free:.0f} GiB free in /dev/shm")


def input_data() -> Finding:
    """Where the demo takes its images from."""
    from ray_jobs.ingest import IngestConfig, resolve_input

    path, kind = resolve_input(IngestConfig())
    if kind == "simulator":
        return Finding("data", "note", "no corpus found; the demo uses the built-in simulator",
                       "set USFM_CORPUS to a folder with a manifest.csv, or to a folder tree")  # fmt: skip
    return Finding("data", "ok", str(path))


CHECKS: tuple[Callable[[], Finding], ...] = (
    python_version, torch_and_cuda, timm_and_torchvision, ray_version, ray_address, free_ports, processors,
    memory, disk, shared_memory, input_data,
)  # fmt: skip


def _answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 if something has to be fixed."""
    argparse.ArgumentParser(prog="usfm doctor", description=__doc__).parse_args(argv)
    console = Console()
    findings = [check() for check in CHECKS]
    marks = {"ok": "ok", "note": "note", "fix": "FIX"}
    console.table("usfm doctor", ("", "check", "found"), [(marks[f.level], f.check, f.found) for f in findings])
    for finding in findings:
        if finding.advice:
            (console.error if finding.level == "fix" else console.warn)(f"{finding.check}: {finding.advice}")
    return int(any(f.level == "fix" for f in findings))


if __name__ == "__main__":
    sys.exit(main())
