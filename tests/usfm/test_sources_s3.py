"""Archives in an object store: the same items through the real S3 protocol, and files that can be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from source_miniatures import MINIATURES, OPTIONS, lay_out

from usfm.data.location import locate
from usfm.data.sources.found import SourceOptions
from usfm.data.sources.table import find_items


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket in an S3 server of this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("archives")
        yield "s3://archives"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("kind", ["manifest", "folder", "dicom", "busi", "busbra", "ddti"])
def test_items_are_those_of_the_folder(bucket: str, kind: str, tmp_path: Path) -> None:
    local = Path(lay_out(MINIATURES[kind], "folder", tmp_path))
    s3fs.S3FileSystem().put(f"{local}/", f"{bucket}/{kind}/archive/", recursive=True)
    options = SourceOptions(organ=OPTIONS.get(kind, ""))
    here, there = find_items(local, options=options), find_items(f"{bucket}/{kind}/archive", options=options)
    assert there.kind == here.kind == kind
    assert [item.name for item in there.items] == [item.name for item in here.items]
    assert [item.path for item in there.items] == [
        item.path.replace(str(local), f"{bucket}/{kind}/archive") for item in here.items
    ]
    assert there.rejected == here.rejected
    assert there.ignored == here.ignored
    for mine, theirs in zip(here.items, there.items, strict=True):
        assert locate(theirs.path).read_bytes() == locate(mine.path).read_bytes()
