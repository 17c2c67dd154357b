"""A run's folder: resolved config, derived plan, environment.

runs/NAME/
  config.yaml         every value, resolved; loadable with --config
  plan.json           what was derived from it: steps, rates, masks, organ shares
  environment.json    versions, device, git revision
  metrics.jsonl       one row per step; tensorboard/ has the same
  step-00000100/      checkpoints (see usfm.train.checkpoint)
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from usfm.config import Config
from usfm.errors import ConfigError
from usfm.train.durable import write_text

__all__ = ["describe_environment", "open_run", "read_config"]

PACKAGES = ("ray", "torch", "timm", "numpy", "pyarrow", "opencv-python-headless", "pydicom", "av", "pydantic")


def describe_environment() -> dict[str, Any]:
    """Versions, device and git revision, for the record beside the results."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpu_instructions": torch.backends.cpu.get_cpu_capability(),  # other ones round otherwise
        "device": device,
        "git_revision": _git_revision(),
        "packages": versions,
    }


def open_run(run_dir: Path, config: Config, plan: Mapping[str, Any], may_change: Sequence[str] = ()) -> None:
    """Create a run's folder, or go on in one that holds the same run.

    Args:
        run_dir: the folder.
        config: resolved config.
        plan: derived values.
        may_change: top-level keys that may differ from the run already there (workers, logging).

    Raises:
        ConfigError: the folder holds a run with another config; the message names the keys.
    """
    new = config.model_dump(mode="json")
    if (run_dir / "config.yaml").exists():
        old = read_config(run_dir)
        changed = sorted(k for k in set(old) | set(new) if old.get(k) != new.get(k) and k not in may_change)
        if changed:
            raise ConfigError(
                f"{run_dir} already holds a run with other values of {', '.join(changed)}; give another run_dir, "
                "or the same values to go on with that run"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / "config.yaml", config.to_yaml())  # a driver killed here must not leave half of it
    for name, document in {"plan": dict(plan), "environment": describe_environment()}.items():
        write_text(run_dir / f"{name}.json", json.dumps(document, indent=1) + "\n")


def read_config(run_dir: Path) -> dict[str, Any]:
    """The resolved config of a run as plain values.

    Raises:
        ConfigError: the folder holds no run.
    """
    path = run_dir / "config.yaml"
    if not path.exists():
        raise ConfigError(f"{run_dir} holds no run: config.yaml is missing")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _git_revision() -> str:
    """Revision of the code's own checkout, "+" appended if it has uncommitted changes; "" outside git."""
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
