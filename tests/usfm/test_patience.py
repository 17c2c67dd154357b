"""A web server that is down, or has a fault, is waited for; a file that it does not have is missing."""

import http.server
import threading
from collections.abc import Iterator

import pytest
from upath import UPath

from usfm.data.patience import patiently
from usfm.errors import EnvironmentProblem


class Server(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"rows")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def file(server: http.server.HTTPServer) -> UPath:
    return UPath(f"http://127.0.0.1:{server.server_port}/shard")


def test_what_a_server_has_and_has_not(file: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patiently(file.read_bytes, "it") == b"rows"
    monkeypatch.setattr(Server, "status", 404)
    with pytest.raises(FileNotFoundError):
        patiently(file.read_bytes, "it", patience_s=60)


def test_a_fault_of_the_server_is_no_missing_file(file: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "status", 503)
    with pytest.raises(EnvironmentProblem, match="could not be read for 1 s"):
        patiently(file.read_bytes, "it", patience_s=0.6)
    timer = threading.Timer(0.3, lambda: monkeypatch.setattr(Server, "status", 200))
    timer.start()
    assert patiently(file.read_bytes, "it", patience_s=20) == b"rows"
    timer.join()


def test_a_refused_connection_is_no_missing_file() -> None:
    closed = http.server.HTTPServer(("127.0.0.1", 0), Server)
    closed.server_close()
    file = UPath(f"http://127.0.0.1:{closed.server_port}/shard")
    with pytest.raises(EnvironmentProblem, match="could not be read for 1 s"):
        patiently(file.read_bytes, "it", patience_s=0.6)
