"""The HTTP side: routes, answers and errors as JSON. Knows no Ray.

A request's body is the file itself, raw (`curl --data-binary @image.png`), not a form. Everything that goes
wrong is answered as {"error": {"code", "reason"}}.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from serve_apps.config import ServeConfig
from serve_apps.intake import Refusal, choose, decode_checked, read_body, refuse_unknown_parameters
from usfm.models.bundle import BundleSpec
from usfm.predict.decode import Decoded
from usfm.predict.predictor import NOTICE, Extras

__all__ = ["Backend", "Busy", "Unavailable", "create_api"]

PAGE = Path(__file__).parent / "page" / "index.html"
DECODE_THREADS = 4
RETRY_AFTER_S = 1
VERBS: dict[str, tuple[str, ...]] = {
    "segment": ("segmentation",),
    "classify": ("classification", "multilabel"),
    "regress": ("regression",),
    "enhance": ("enhancement",),
    "embed": ("embedding",),
}
# the page loads nothing from anywhere, and nothing may make it do so
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Busy(Exception):
    """A model's queue is full."""


class Unavailable(Exception):
    """A model cannot be reached."""


class Backend(Protocol):
    """Where the models are."""

    async def infer(self, model: int, image: Decoded, extras: Extras) -> dict[str, Any]:
        """Answer of model number `model`.

        Raises:
            Busy: its queue is full.
            Unavailable: it cannot be reached.
        """

    async def not_ready(self) -> list[int]:
        """Numbers of the models that cannot answer now."""


def create_api(config: ServeConfig, specs: Sequence[BundleSpec], backend: Backend) -> FastAPI:
    """The web application over some models.

    Args:
        config: limits.
        specs: of the models, in the order of the backend's numbers.
        backend: where they are.
    """
    # /docs would load its scripts from elsewhere; /openapi.json stays
    app = FastAPI(title="USFM on Ray", description=NOTICE, docs_url=None, redoc_url=None)
    pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
    _add_error_handlers(app)

    async def answer(request: Request, verb: str, model: str | None, frame: int, extras: Extras) -> JSONResponse:
        start = time.perf_counter()
        number = choose(specs, VERBS[verb], model)
        refuse_unknown_parameters(request)
        body = await read_body(request, round(config.max_body_mb * 2**20))
        image = await asyncio.get_running_loop().run_in_executor(pool, decode_checked, body, frame, config)
        decoded = time.perf_counter()
        if image.kind == "dicom" and extras.overlay:
            extras = extras.model_copy(update={"preview": True})  # a browser cannot draw the file itself
        result = await backend.infer(number, image, extras)
        now = time.perf_counter()
        result["timing_ms"] = {
            "decode": round((decoded - start) * 1e3, 1),
            "model": round((now - decoded) * 1e3, 1),
            "total": round((now - start) * 1e3, 1),
        }
        return JSONResponse(result)

    name_query = Query(description="name of the model; the first of its kind if not given")
    frame_query = Query(ge=0, description="frame of a multi-frame file, from 0")
    preview_query = Query(description="also return the grey image as PNG")
    body_docs = {
        "requestBody": {
            "required": True,
            "description": "the image file itself: PNG, JPEG or DICOM",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }

    @app.post("/v1/segment", openapi_extra=body_docs)
    async def segment(
        request: Request,
        model: Annotated[str | None, name_query] = None,
        frame: Annotated[int, frame_query] = 0,
        overlay: Annotated[bool, Query(description="also return the image with class colours over it")] = False,
        preview: Annotated[bool, preview_query] = False,
    ) -> JSONResponse:
        """Mask of class indices as PNG at the image's size, area by class."""
        return await answer(request, "segment", model, frame, Extras(overlay=overlay, preview=preview))

    @app.post("/v1/classify", openapi_extra=body_docs)
    async def classify(
        request: Request,
        model: Annotated[str | None, name_query] = None,
        frame: Annotated[int, frame_query] = 0,
        preview: Annotated[bool, preview_query] = False,
    ) -> JSONResponse:
        """Probability of each class; of a multilabel model those that are there, too."""
        return await answer(request, "classify", model, frame, Extras(preview=preview))

    @app.post("/v1/regress", openapi_extra=body_docs)
    async def regress(
        request: Request,
        model: Annotated[str | None, name_query] = None,
        frame: Annotated[int, frame_query] = 0,
        preview: Annotated[bool, preview_query] = False,
    ) -> JSONResponse:
        """A number with its unit; null for a length in mm where the file does not say how large a pixel is."""
        return await answer(request, "regress", model, frame, Extras(preview=preview))

    @app.post("/v1/enhance", openapi_extra=body_docs)
    async def enhance(
        request: Request,
        model: Annotated[str | None, name_query] = None,
        frame: Annotated[int, frame_query] = 0,
        preview: Annotated[bool, preview_query] = False,
    ) -> JSONResponse:
        """The image in better quality, as grey PNG at its own size."""
        return await answer(request, "enhance", model, frame, Extras(preview=preview))

    @app.post("/v1/embed", openapi_extra=body_docs)
    async def embed(
        request: Request,
        model: Annotated[str | None, name_query] = None,
        frame: Annotated[int, frame_query] = 0,
        preview: Annotated[bool, preview_query] = False,
    ) -> JSONResponse:
        """Mean patch token of the encoder."""
        return await answer(request, "embed", model, frame, Extras(preview=preview))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served, the first of each kind being its default."""
        return {"models": [describe(spec) for spec in specs], "max_body_mb": config.max_body_mb, "notice": NOTICE}

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 when every model answers, else 503 with the names of those that do not."""
        missing = [specs[number].name for number in await backend.not_ready()]
        if missing:
            return error_response(503, "not_ready", f"not ready: {', '.join(missing)}", RETRY_AFTER_S)
        return JSONResponse({"status": "ok", "models": len(specs)})

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    return app


def describe(spec: BundleSpec) -> dict[str, Any]:
    """What /v1/models says of one model."""
    keys = ("name", "kind", "classes", "target", "unit", "version", "licences", "metrics", "trained_on")
    said = {key: getattr(spec, key) for key in keys}
    return said | {"encoder": spec.encoder.size if spec.encoder else spec.network, "input_px": spec.img_px}


def error_response(status: int, code: str, reason: str, retry_after_s: int | None = None) -> JSONResponse:
    """An error as JSON."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return JSONResponse({"error": {"code": code, "reason": reason}}, status, headers)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_request: Request, error: Refusal) -> JSONResponse:
        return error_response(error.status, error.code, error.reason)

    @app.exception_handler(Busy)
    async def busy(_request: Request, _error: Busy) -> JSONResponse:
        return error_response(503, "busy", "too many requests are waiting; try again shortly", RETRY_AFTER_S)

    @app.exception_handler(Unavailable)
    async def unavailable(_request: Request, _error: Unavailable) -> JSONResponse:
        return error_response(503, "unavailable", "the model is restarting; try again shortly", RETRY_AFTER_S)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        reason = "; ".join(f"{e['loc'][-1]}: {e['msg']} (got {e.get('input')!r})" for e in error.errors())
        return error_response(422, "invalid_parameter", reason)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        reason = f"{request.method} {request.url.path}: {error.detail}"
        response = error_response(error.status_code, code, reason)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> JSONResponse:
        return error_response(500, "internal", "an error of the server, not of the request; its log says more")
