"""The Ray Serve application: one HTTP deployment in front, one batched deployment for each model.

Two hops and not more: a hop costs about 10 ms. The HTTP replica decodes; a model replica holds a `Predictor`
and does the rest. Also usable as `serve run serve_apps.app:build bundles=RUN/best`.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_apps.api import Busy, Unavailable, create_api
from serve_apps.config import ServeConfig, served_specs
from usfm.models.bundle import BundleSpec
from usfm.predict.decode import Decoded
from usfm.predict.predictor import Extras, Predictor

__all__ = ["APP_NAME", "build"]

APP_NAME = "usfm"
READY_TIMEOUT_S = 5.0
# an idle replica looks for its end every 2 s by default; no request here runs for the default of 20 s
QUICK_STOP = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": 5.0}


class Model:
    """Replica of one model: batches the requests that arrive close together."""

    def __init__(self, bundle_dir: str, config: ServeConfig) -> None:
        torch.set_num_threads(max(1, round(config.num_cpus_per_model)))
        device = "cuda" if config.num_gpus_per_model > 0 else "cpu"
        self._predictor = Predictor(bundle_dir, device, config.canvas_px)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Change batching while running."""
        self._forward.set_max_batch_size(user_config["max_batch_size"])
        self._forward.set_batch_wait_timeout_s(user_config["batch_wait_timeout_s"])

    async def ready(self) -> bool:
        """Reached only when the weights are loaded."""
        return True

    async def infer(self, image: Decoded, extras: Extras) -> dict[str, Any]:
        """One image's answer; torch works in threads so that the replica goes on taking requests."""
        tensor = await asyncio.to_thread(self._predictor.preprocess, image)
        raw, batch_size = await self._forward(tensor)
        answer = await asyncio.to_thread(self._predictor.encode, raw, image, extras)
        return answer | {"batch_size": batch_size}

    @serve.batch()  # type: ignore[untyped-decorator]
    async def _forward(self, tensors: list[torch.Tensor]) -> list[tuple[torch.Tensor, int]]:
        raws = await asyncio.to_thread(self._predictor.predict, tensors)
        return [(raw, len(tensors)) for raw in raws]


class Api:
    """Replica of the HTTP side; the backend of `create_api` over Serve handles."""

    def __init__(self, config: ServeConfig, specs: list[BundleSpec], *models: DeploymentHandle) -> None:
        self._config, self._specs = config, specs
        # Serve's own gRPC, which the throughput switch turns on, refuses messages above 4 MB; a 2-megapixel
        # image with its overlay is more. By reference, images go through Ray's object store.
        self._models = [model.options(_by_reference=True) for model in models]

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_api(self._config, self._specs, self)

    async def infer(self, model: int, image: Decoded, extras: Extras) -> dict[str, Any]:
        """See `serve_apps.api.Backend`."""
        try:
            answer: dict[str, Any] = await self._models[model].infer.remote(image, extras)
        except BackPressureError:
            raise Busy from None
        except (RayActorError, DeploymentUnavailableError):
            raise Unavailable from None
        return answer

    async def not_ready(self) -> list[int]:
        """See `serve_apps.api.Backend`; a model whose queue is full is busy, not missing."""

        async def lacks(model: DeploymentHandle) -> bool:
            try:
                return not await asyncio.wait_for(model.ready.remote(), READY_TIMEOUT_S)
            except BackPressureError:
                return False
            except (RayActorError, DeploymentUnavailableError, TimeoutError):
                return True

        missing = await asyncio.gather(*map(lacks, self._models))
        return [number for number, lacking in enumerate(missing) if lacking]


def build(args: ServeConfig | Mapping[str, Any]) -> serve.Application:
    """The application, from a config or from the text arguments of `serve run`.

    Raises:
        ConfigError: a key or value is wrong, or no bundles are named.
        CheckpointError: a folder is not a bundle.
    """
    config = args if isinstance(args, ServeConfig) else ServeConfig.build(args)
    bundles = served_specs(config)
    batching = {"max_batch_size": config.max_batch_size, "batch_wait_timeout_s": config.batch_wait_timeout_s}
    model = serve.deployment(Model)
    models = [
        model.options(
            name=re.sub(r"\W+", "-", f"{spec.kind}-{spec.name}"),
            num_replicas=config.replicas,
            ray_actor_options={"num_cpus": config.num_cpus_per_model, "num_gpus": config.num_gpus_per_model},
            max_ongoing_requests=config.max_ongoing_requests,
            max_queued_requests=config.max_queued_requests,
            user_config=batching,
            **QUICK_STOP,
        ).bind(str(folder), config)
        for folder, spec in bundles
    ]
    # whatever waits for a model waits inside the HTTP part, so that the answer to too many is JSON
    waiting = 64 + len(models) * (config.replicas * config.max_ongoing_requests + config.max_queued_requests)
    api = serve.deployment(serve.ingress()(Api)).options(
        name="api",
        num_replicas=config.api_replicas,
        ray_actor_options={"num_cpus": config.num_cpus_per_api},
        max_ongoing_requests=waiting,
        max_queued_requests=waiting,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        **QUICK_STOP,
    )
    return api.bind(config, [spec for _, spec in bundles], *models)
