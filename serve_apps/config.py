"""What is served, where and with how much: the configuration of the Serve application."""

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from usfm.config import Config
from usfm.errors import ConfigError
from usfm.models.bundle import BundleSpec
from usfm.predict.predictor import read_spec

__all__ = ["ServeConfig", "served_specs"]


class ServeConfig(Config):
    """Configuration of `usfm serve` and of `serve_apps.app:build`.

    Attributes:
        bundles: folders with model bundles; one text with commas is taken apart. The first of a kind is
            that kind's default.
        host: address to listen on. Nothing here asks for a password: before leaving 127.0.0.1, put a
            proxy with authentication in front.
        port: 0 takes any free one.
        address: Ray cluster to join; "auto" joins RAY_ADDRESS if set, else starts a local one; "local"
            always starts one.
        num_cpus: CPUs of a cluster that is started here; None = all of the machine.
        canvas_px: longest side to which images are shrunk first; None = what each bundle was trained with.
        max_body_mb: largest request body, in MiB.
        max_megapixels: largest image.
        max_batch_size: images in one forward pass.
        batch_wait_timeout_s: how long the first image of a batch waits for others.
        replicas: of each model.
        api_replicas: of the HTTP part, which also decodes images.
        num_cpus_per_model: Ray CPUs of a model replica, and its torch threads (at least one).
        num_gpus_per_model: more than 0 puts the model on CUDA.
        num_cpus_per_api: Ray CPUs of an HTTP replica.
        max_ongoing_requests: in one model replica at a time; at least `max_batch_size`.
        max_queued_requests: waiting for a model, per HTTP replica; more are answered 503 with Retry-After.
        request_timeout_s: after which a request is given up.
        startup_timeout_s: until all models have to be ready.
    """

    bundles: list[str] = []
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    address: str = "auto"
    num_cpus: int | None = Field(default=None, ge=1)
    canvas_px: int | None = Field(default=None, ge=16)
    max_body_mb: float = Field(default=32, gt=0)
    max_megapixels: float = Field(default=16, gt=0, le=64)
    max_batch_size: int = Field(default=8, ge=1)
    batch_wait_timeout_s: float = Field(default=0.01, ge=0)
    replicas: int = Field(default=1, ge=1)
    api_replicas: int = Field(default=1, ge=1)
    num_cpus_per_model: float = Field(default=0.2, ge=0)
    num_gpus_per_model: float = Field(default=0, ge=0)
    num_cpus_per_api: float = Field(default=0.1, ge=0)
    max_ongoing_requests: int = Field(default=32, ge=1)
    max_queued_requests: int = Field(default=128, ge=1)
    request_timeout_s: float = Field(default=60, gt=0)
    startup_timeout_s: float = Field(default=180, gt=0)

    @field_validator("bundles", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):  # `serve run serve_apps.app:build bundles=a,b` passes text only
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @model_validator(mode="after")
    def _batch_fits(self) -> "ServeConfig":
        if self.max_batch_size > self.max_ongoing_requests:
            raise ValueError(
                f"max_batch_size {self.max_batch_size} is above max_ongoing_requests "
                f"{self.max_ongoing_requests}: a batch could never fill"
            )
        return self


def served_specs(config: ServeConfig) -> list[tuple[Path, BundleSpec]]:
    """Absolute folder and spec of each bundle, in order; weights are not read.

    Raises:
        ConfigError: no bundles, or two of one kind and name.
        CheckpointError: a folder is not a bundle.
    """
    if not config.bundles:
        raise ConfigError(
            "bundles is empty; name at least one folder, e.g. bundles=[runs/demo/sweep/best/fetal_head]"
        )
    found = [
        (Path(folder).expanduser().resolve(), read_spec(Path(folder).expanduser())) for folder in config.bundles
    ]
    seen: dict[tuple[str, str], Path] = {}
    for folder, spec in found:
        # models of one class and of several answer under the same address
        key = ("classification" if spec.kind == "multilabel" else spec.kind, spec.name)
        if key in seen:
            raise ConfigError(f"{seen[key]} and {folder} are both {key[0]} {spec.name!r}; serve one of them")
        seen[key] = folder
    return found
