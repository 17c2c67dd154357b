"""Storage that can be filled, taken away and given back: real mounts where this user may mount.

Elsewhere the kernel refuses large files of the writing process (RLIMIT_FSIZE): a real error of `write`, and the
reason is printed. Nothing in the product knows of these tests.
"""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["RunStorage", "ShardServer"]

SIZE_MB = 96
SMALL = 1 << 20  # bytes of a file, where the kernel is to refuse: less than a checkpoint, more than a log


class RunStorage:
    """A folder for runs. Use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        refused = _mount("-t", "tmpfs", "-o", f"size={SIZE_MB}m", "tmpfs", str(folder))
        self.mounts = refused is None
        if not self.mounts:
            print(f"no mounts here ({refused}): the kernel refuses large files instead", file=sys.stderr)

    def __enter__(self) -> "RunStorage":
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounts:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)

    @contextlib.contextmanager
    def full(self, writer: psutil.Process) -> Iterator[None]:
        """No byte more fits; `writer` is the process that saves."""
        if not self.mounts:
            with _small_files(writer):
                yield
            return
        ballast = self.folder / "ballast"
        handle = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 20, 1 << 12, 1):
                _fill(handle, size)
            yield
        finally:
            os.close(handle)
            ballast.unlink()

    @contextlib.contextmanager
    def away(self, run_dir: Path, writer: psutil.Process) -> Iterator[None]:
        """The run's folder shows an empty file system that takes nothing."""
        if not self.mounts:
            with _small_files(writer):
                yield
            return
        refused = _mount("-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(run_dir))
        assert refused is None, refused
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(run_dir)], check=True)


class ShardServer:
    """Shards behind HTTP, by a process that can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Serve; returns when it answers."""
        command = [sys.executable, "-m", "http.server", str(self._port), "--bind", "127.0.0.1"]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        pause = threading.Event()
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return
            pause.wait(0.1)
        raise AssertionError(f"no answer from {self.url}")

    def stop(self) -> None:
        """Refuse every connection."""
        self._process.kill()
        self._process.wait(10)


def _mount(*arguments: str) -> str | None:
    """Mount; returns why it was refused."""
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "there is no mount command"
    return done.stderr.strip() if done.returncode else None


def _fill(handle: int, size: int) -> None:
    try:
        while True:
            os.write(handle, b"\0" * size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@contextlib.contextmanager
def _small_files(writer: psutil.Process) -> Iterator[None]:
    before = writer.rlimit(psutil.RLIMIT_FSIZE)
    writer.rlimit(psutil.RLIMIT_FSIZE, (SMALL, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            writer.rlimit(psutil.RLIMIT_FSIZE, before)
