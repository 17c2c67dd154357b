"""Shards of an object store, kept as local files while they are used.

The stream reads a shard whole, in seeded order, and then not again for a long time; so whole files are fetched
(one request each), checked against their SHA-256 and memory-mapped. The folder is shared by all processes of a
machine: one fetches, the others wait for it. The files used longest ago go when the folder grows above its limit.
"""

import contextlib
import fcntl
import getpass
import hashlib
import os
import tempfile
from pathlib import Path

from upath import UPath

from usfm.data.patience import PATIENCE_S, patiently
from usfm.errors import ShardError

__all__ = ["ShardCache", "default_folder"]

BLOCK = 8 << 20


def default_folder() -> Path:
    """A folder of this user beside the machine's other temporary files."""
    return Path(tempfile.gettempdir()) / f"usfm-shards-{getpass.getuser()}"


class ShardCache:
    """Local copies of remote files, named by their content."""

    def __init__(self, folder: Path, limit_bytes: int, patience_s: float = PATIENCE_S) -> None:
        self.folder, self.limit_bytes, self.patience_s = folder, limit_bytes, patience_s

    def fetch(self, remote: UPath, sha256: str) -> Path:
        """The local copy of a file, fetched if it is not there yet.

        Args:
            remote: where it lies.
            sha256: of its content, hex.

        Raises:
            ShardError: it is missing, or has other content.
            EnvironmentProblem: the storage does not answer, or the disk is full.
        """
        target = self.folder / f"{sha256}.arrow"
        with contextlib.suppress(FileNotFoundError):
            os.utime(target)  # used now: goes last
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{sha256}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system if this process dies
            if not target.is_file():
                self._download(remote, sha256, target)
                self._evict(keep=target)
        return target

    def _download(self, remote: UPath, sha256: str, target: Path) -> None:
        partial = target.with_suffix(f".{os.getpid()}.partial")
        try:
            got = patiently(lambda: _copy(remote, partial), str(remote), self.patience_s)
            if got != sha256:
                raise ShardError(f"shard {remote} has SHA-256 {got[:12]}..., its index states {sha256[:12]}...")
            os.replace(partial, target)
        except FileNotFoundError:
            raise ShardError(f"shard {remote} is missing") from None
        finally:
            partial.unlink(missing_ok=True)

    def _evict(self, keep: Path) -> None:
        files = []
        for path in self.folder.glob("*.arrow"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was faster
                continue
            files.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda f: f[0]):
            if total <= self.limit_bytes:
                return
            if path != keep:
                path.unlink(missing_ok=True)  # who has it mapped keeps its pages
                path.with_suffix(".lock").unlink(missing_ok=True)
                total -= size


def _copy(remote: UPath, partial: Path) -> str:
    """Copy a file and give its SHA-256; a full local disk is told apart from a storage that fails."""
    digest = hashlib.sha256()
    with remote.open("rb") as source, partial.open("wb") as sink:
        while block := source.read(BLOCK):
            digest.update(block)
            sink.write(block)
    return digest.hexdigest()
