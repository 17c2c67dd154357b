"""The real thing: the command starts Ray and Serve in a process of its own, tests talk HTTP to it."""

import base64
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from bundle_factory import write_bundles
from PIL import Image
from pydicom.data import get_testdata_file

from usfm.predict.predictor import Extras, Predictor

pytestmark = pytest.mark.serve
OPTIONS = ["address=local", "num_cpus=2", "port=0", "max_body_mb=1", "batch_wait_timeout_s=0.3"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path]) -> Iterator[str]:
    """The address of a running server; Ctrl-C must end it with status 0."""
    served = ",".join(str(bundles[name]) for name in ("nerve", "lung", "tiny"))
    command = [sys.executable, "-m", "serve_apps.serve", f"bundles={served}", *OPTIONS]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = []
    try:
        for line in process.stdout:  # ends when the address is printed or the process dies
            output.append(line)
            if line.startswith("http"):
                break
        assert output[-1:], "the server printed nothing"
        assert output[-1].startswith("http"), "".join(output)
        yield output[-1].split()[0]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "Traceback" not in rest
    finally:
        if process.poll() is None:
            process.kill()


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=60, trust_env=False) as client:
        yield client


def speckle(kind: str, height: int = 90, width: int = 120, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def dicom() -> bytes:
    """30 frames of 320 x 240 px with calibrated regions, a real file that comes with pydicom."""
    return Path(str(get_testdata_file("examples_ybr_color.dcm", download=False))).read_bytes()


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_segment_answers_what_the_predictor_says(client: httpx.Client, bundles: dict[str, Path], kind: str) -> None:
    data = speckle(kind)
    response = client.post("/v1/segment?overlay=true", content=data)
    assert response.status_code == 200, response.text
    answer = response.json()
    predictor = Predictor(bundles["nerve"])
    decoded = predictor.decode(data)
    expected = predictor.encode(
        predictor.predict([predictor.preprocess(decoded)])[0], decoded, Extras(overlay=True)
    )
    assert picture(answer["mask_png"]).shape == (90, 120)
    # another thread count may move a pixel on a boundary
    assert (picture(answer["mask_png"]) != picture(expected["mask_png"])).mean() < 0.001
    assert picture(answer["overlay_png"]).shape == (90, 120, 3)
    assert answer["model"] == expected["model"]
    assert answer["image"] == expected["image"]


def test_a_frame_of_a_dicom_file_comes_with_preview_and_areas(client: httpx.Client) -> None:
    answer = client.post("/v1/segment?frame=7&overlay=true", content=dicom()).json()
    assert answer["image"]["frame"] == 7
    assert answer["image"]["frames"] == 30
    assert picture(answer["image_png"]).shape == (240, 320)
    area_mm2 = sum(c["area_mm2"] for c in answer["classes"])
    assert area_mm2 == pytest.approx(320 * 240 * answer["image"]["spacing_mm"] ** 2)
    refused = client.post("/v1/segment?frame=30", content=dicom())
    assert refused.status_code == 422
    assert "30 frames" in refused.json()["error"]["reason"]


def test_classify_and_embed(client: httpx.Client, bundles: dict[str, Path]) -> None:
    probabilities = client.post("/v1/classify", content=speckle("PNG")).json()["probabilities"]
    assert list(probabilities) == ["a", "b", "c", "d"]
    assert sum(probabilities.values()) == pytest.approx(1)
    predictor = Predictor(bundles["tiny"])
    token = predictor.predict([predictor.preprocess(predictor.decode(speckle("PNG")))])[0]
    embedding = client.post("/v1/embed", content=speckle("PNG")).json()["embedding"]
    torch.testing.assert_close(torch.tensor(embedding), token, rtol=1e-3, atol=1e-4)


def test_requests_at_the_same_time_share_a_batch_and_keep_their_answers(client: httpx.Client) -> None:
    def classify(seed: int) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/v1/classify", content=speckle("PNG", seed=seed)).json()
        return answer

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(classify, range(8)))
    assert max(answer["batch_size"] for answer in together) > 1
    alone = [classify(seed) for seed in range(2)]
    for a, b in zip(together, alone, strict=False):
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-4)


def test_wrong_input_is_refused_through_the_proxy(client: httpx.Client) -> None:
    attempts = {
        "empty_body": (400, client.post("/v1/segment")),
        "unreadable_image": (415, client.post("/v1/segment", content=b"not an image")),
        "body_too_large": (413, client.post("/v1/segment", content=bytes(1_500_000))),
        "unknown_model": (404, client.post("/v1/segment?model=liver", content=speckle("PNG"))),
        "invalid_parameter": (422, client.post("/v1/segment?frame=x", content=speckle("PNG"))),
        "image_too_large": (413, client.post("/v1/embed", content=blank_png(5000, 4000))),
        "not_found": (404, client.get("/v1/nothing")),
    }
    got = {code: (r.status_code, r.json()["error"]["code"]) for code, (_, r) in attempts.items()}
    assert got == {code: (status, code) for code, (status, _) in attempts.items()}


def test_an_image_above_grpc_s_4_mb_reaches_its_model(client: httpx.Client) -> None:
    answer = client.post("/v1/embed", content=blank_png(2100, 2100)).json()
    assert answer["image"]["width"] == 2100, answer


def blank_png(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_health_models_and_page(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "models": 3}
    listed = client.get("/v1/models").json()["models"]
    assert [m["kind"] for m in listed] == ["segmentation", "classification", "embedding"]
    assert "not a medical device" in client.get("/").text
