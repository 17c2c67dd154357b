"""The HTTP side over models that only pretend: every refusal, and no Ray."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bundle_factory import ENCODER
from fastapi.testclient import TestClient
from PIL import Image

from serve_apps.api import Busy, Unavailable, create_api
from serve_apps.config import ServeConfig
from usfm.models.bundle import BundleSpec
from usfm.predict.decode import Decoded
from usfm.predict.predictor import Extras

SPECS = [
    BundleSpec(kind="segmentation", name="nerve", classes=["background", "nerve"], encoder=ENCODER),
    BundleSpec(kind="segmentation", name="head", classes=["background", "head"], encoder=ENCODER),
    BundleSpec(kind="embedding", name="tiny", encoder=ENCODER),
]
LIMITS = ServeConfig(max_body_mb=0.1, max_megapixels=0.05)


class Pretender:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.missing: list[int] = []
        self.calls: list[tuple[int, Decoded, Extras]] = []

    async def infer(self, model: int, image: Decoded, extras: Extras) -> dict[str, Any]:
        self.calls.append((model, image, extras))
        if self.error:
            raise self.error
        return {"model": {"name": SPECS[model].name}}

    async def not_ready(self) -> list[int]:
        return self.missing


@pytest.fixture
def backend() -> Pretender:
    return Pretender()


@pytest.fixture
def client(backend: Pretender) -> Iterator[TestClient]:
    with TestClient(create_api(LIMITS, SPECS, backend), raise_server_exceptions=False) as client:
        yield client


def png(height: int = 20, width: int = 30) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(height * width, dtype=np.uint8).reshape(height, width)).save(stream, "PNG")
    return stream.getvalue()


def refusal(response: Any, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert response.json()["error"]["code"] == code
    return str(response.json()["error"]["reason"])


def test_the_first_model_of_a_kind_answers_unless_one_is_named(client: TestClient, backend: Pretender) -> None:
    assert client.post("/v1/segment", content=png()).json()["model"]["name"] == "nerve"
    assert client.post("/v1/segment?model=head&overlay=true", content=png()).json()["model"]["name"] == "head"
    assert client.post("/v1/embed", content=png()).json()["model"]["name"] == "tiny"
    assert [call[0] for call in backend.calls] == [0, 1, 2]
    assert backend.calls[1][2] == Extras(overlay=True)
    assert backend.calls[0][1].pixels.shape == (20, 30)


def test_unknown_models_and_kinds_are_404_with_what_there_is(client: TestClient) -> None:
    assert "known: nerve, head" in refusal(
        client.post("/v1/segment?model=liver", content=png()), 404, "unknown_model"
    )
    reason = refusal(client.post("/v1/classify", content=png()), 404, "no_such_kind")
    assert "served kinds: embedding, segmentation" in reason


def test_an_empty_body_is_400(client: TestClient) -> None:
    refusal(client.post("/v1/embed"), 400, "empty_body")


def test_what_is_not_an_image_is_415_with_the_reader_s_reason(client: TestClient) -> None:
    assert "text, not an image" in refusal(client.post("/v1/embed", content=b"hello"), 415, "unreadable_image")
    assert "damaged" in refusal(client.post("/v1/embed", content=png()[:60]), 415, "unreadable_image")


def test_a_form_is_415_with_the_way_to_send_it(client: TestClient) -> None:
    assert "--data-binary" in refusal(client.post("/v1/embed", files={"file": png()}), 415, "form")


def test_a_large_body_is_413_by_its_header_and_by_its_bytes(client: TestClient, backend: Pretender) -> None:
    assert "0.1 MiB" in refusal(client.post("/v1/embed", content=bytes(200_000)), 413, "body_too_large")
    streamed = (bytes(50_000) for _ in range(4))  # chunked: no Content-Length
    refusal(client.post("/v1/embed", content=streamed), 413, "body_too_large")
    assert not backend.calls


def test_many_pixels_are_413(client: TestClient) -> None:
    assert "0.05 megapixels" in refusal(client.post("/v1/embed", content=png(300, 400)), 413, "image_too_large")


def test_frames_that_are_not_there_are_422(client: TestClient) -> None:
    assert "1 frame" in refusal(client.post("/v1/embed?frame=1", content=png()), 422, "no_such_frame")
    assert "frame" in refusal(client.post("/v1/embed?frame=-1", content=png()), 422, "invalid_parameter")
    assert "frame" in refusal(client.post("/v1/embed?frame=one", content=png()), 422, "invalid_parameter")


def test_a_misspelt_parameter_is_422_and_not_ignored(client: TestClient) -> None:
    reason = refusal(client.post("/v1/segment?modle=head", content=png()), 422, "unknown_parameter")
    assert "known: frame, model, overlay, preview" in reason


def test_unknown_paths_and_methods_answer_in_json(client: TestClient) -> None:
    refusal(client.get("/v2/segment"), 404, "not_found")
    response = client.get("/v1/segment")
    refusal(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(("error", "code"), [(Busy(), "busy"), (Unavailable(), "unavailable")])
def test_a_model_that_cannot_answer_now_is_503_with_retry_after(
    client: TestClient, backend: Pretender, error: Exception, code: str
) -> None:
    backend.error = error
    response = client.post("/v1/embed", content=png())
    refusal(response, 503, code)
    assert int(response.headers["retry-after"]) > 0


def test_a_fault_of_ours_is_500_without_any_detail(client: TestClient, backend: Pretender) -> None:
    backend.error = ZeroDivisionError("secret detail of line 42")
    response = client.post("/v1/embed", content=png())
    refusal(response, 500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_health_follows_the_models(client: TestClient, backend: Pretender) -> None:
    assert client.get("/healthz").status_code == 200
    backend.missing = [1]
    assert "head" in refusal(client.get("/healthz"), 503, "not_ready")


def test_models_are_listed_with_classes_and_input_size(client: TestClient) -> None:
    listed = client.get("/v1/models").json()["models"]
    assert [(m["name"], m["kind"], m["classes"], m["input_px"]) for m in listed] == [
        ("nerve", "segmentation", ["background", "nerve"], 64),
        ("head", "segmentation", ["background", "head"], 64),
        ("tiny", "embedding", [], 64),
    ]


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "not a medical device" in response.text
    assert "://" not in response.text


def test_every_kind_has_its_address() -> None:
    kinds = ("multilabel", "regression", "enhancement")
    classes = {"multilabel": ["fluid", "mass"]}
    specs = [
        BundleSpec(kind=kind, name=kind, classes=classes.get(kind, []), encoder=ENCODER, target="HC_mm", unit="mm")
        for kind in kinds
        if kind != "enhancement"
    ]
    specs.append(BundleSpec(kind="enhancement", name="enhancement", encoder=ENCODER, head="restoration"))
    backend = Pretender()
    with TestClient(create_api(LIMITS, specs, backend)) as client:
        for address in ("classify", "regress", "enhance"):
            assert client.post(f"/v1/{address}", content=png()).status_code == 200
        listed = client.get("/v1/models").json()["models"]
    assert [call[0] for call in backend.calls] == [0, 1, 2]
    assert [(m["kind"], m["target"], m["unit"]) for m in listed[:2]] == [
        ("multilabel", "HC_mm", "mm"),
        ("regression", "HC_mm", "mm"),
    ]
