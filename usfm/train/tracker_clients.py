"""The trackers' own calls. Both packages are optional (extras `mlflow` and `wandb`) and imported on first use.

Where a run is stored is the tracker's own business: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, WANDB_PROJECT,
WANDB_MODE and so on, in the environment of the workers. Without MLFLOW_TRACKING_URI MLflow writes to `mlruns`
beside the run's folder.
"""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usfm.train.trackers import Client

__all__ = ["CLIENTS", "flat_params"]

Pixels = npt.NDArray[np.uint8]
PROJECT = "usfm"
PARAMS_AT_ONCE = 100  # MLflow's limit of one call


def flat_params(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys, the form of the command line's overrides."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flat_params(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


class MlflowClient:
    """MLflow through its client class: no global active run."""

    _run_id = ""

    def start(self, run_dir: Path, config: Mapping[str, Any], run_id: str) -> str:
        """Begin or go on."""
        from mlflow import MlflowClient as Mlflow

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow 3 refuses folders
            uri = (run_dir.parent / "mlruns").absolute().as_uri()
        self._mlflow = Mlflow(uri)
        self._run_id = run_id or self._run_id
        if not self._run_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._mlflow.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self._mlflow.create_experiment(name)
            self._run_id = self._mlflow.create_run(number, run_name=run_dir.name).info.run_id
        self._mlflow.update_run(self._run_id, status="RUNNING")
        return self._run_id

    def describe(self, config: Mapping[str, Any]) -> None:
        """The config as params."""
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in flat_params(config).items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._mlflow.log_batch(self._run_id, params=params[first : first + PARAMS_AT_ONCE])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._mlflow.log_batch(self._run_id, [Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """One image, as artifact NAME/step-XXXXXXXX.png."""
        self._mlflow.log_image(self._run_id, pixels, artifact_file=f"{name}/step-{step:08d}.png")

    def close(self, failed: bool) -> None:
        """Mark the run as finished or failed."""
        self._mlflow.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")


class WandbClient:
    """Weights & Biases; `step` is a metric of its own, so that a resumed run may log a step again."""

    _run_id = ""

    def start(self, run_dir: Path, config: Mapping[str, Any], run_id: str) -> str:
        """Begin or go on."""
        import wandb

        self._wandb = wandb
        self._run_id = run_id or self._run_id or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run_dir.name, dir=str(run_dir),
            id=self._run_id, resume="allow", config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return str(self._run.id)

    def describe(self, config: Mapping[str, Any]) -> None:
        """Nothing: the start said it."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log({**values, "step": step})

    def picture(self, step: int, name: str, pixels: Pixels) -> None:
        """One image."""
        self._run.log({name: self._wandb.Image(pixels), "step": step})

    def close(self, failed: bool) -> None:
        """Flush and finish."""
        self._run.finish(exit_code=int(failed))


CLIENTS: dict[str, type[Client]] = {"mlflow": MlflowClient, "wandb": WandbClient}
