"""An S3 server on this machine that counts: what a store is asked for, whatever its speed."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

__all__ = ["BUCKET", "CountingS3", "counting_s3"]

BUCKET = "benchmark"


class CountingS3:
    """The server's address and what was asked of it since the last `reset`."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application, self.endpoint = application, ""
        self.reset()

    def reset(self) -> None:
        """Count from nought."""
        self.requests: Counter[str] = Counter()
        self.bytes = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        self.requests[environ["REQUEST_METHOD"]] += 1
        for part in self.application(environ, start_response):
            self.bytes += len(part)
            yield part

    def upload(self, folder: Path, prefix: str) -> None:
        """Put all files below a folder into the bucket."""
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://{self.endpoint}")
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}")


@contextmanager
def counting_s3() -> Iterator[CountingS3]:
    """A server with an empty bucket, for the length of a block; credentials are set in the environment."""
    import boto3

    server = CountingS3(DomainDispatcherApplication(create_backend_app))
    http = make_server("127.0.0.1", 0, server, threaded=True)
    server.endpoint = f"127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, name="s3")
    thread.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "S3_ENDPOINT_URL": f"http://{server.endpoint}",  # how MosaicML streaming is told
    }  # fmt: skip
    try:
        with mock.patch.dict(os.environ, environment):
            boto3.client("s3", endpoint_url=f"http://{server.endpoint}").create_bucket(Bucket=BUCKET)
            yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
