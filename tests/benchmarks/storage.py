"""How to store images: encodings (size, encode, decode) and containers (in order, at random, local, S3).

    python tests/benchmarks/storage.py --out FILE.json [--images N] [--shards DIR | --corpus DIR] [--no-s3]

Rates are of one core; files are in the page cache. The S3 server runs on this machine and costs CPU itself: its
requests and bytes are what counts, its times are not printed.
"""

import argparse
import csv
import importlib.util
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import contenders
import cv2
import numpy as np
import numpy.typing as npt
from counting_s3 import BUCKET, CountingS3, counting_s3
from formats import FORMATS, MODULES, Format, Place
from image_codings import ENCODINGS, Encoding
from material import shard_files, simulated_shards

from usfm.data.codec import decode_grey
from usfm.data.prepare import shrink
from usfm.data.shard_reader import ShardReader

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
Pixels = npt.NDArray[np.uint8]
LONGEST_SIDE_PX = 256
BATCH = 64
RANDOM_ROWS = 64
TRIES = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _options(arguments)
    contenders.find_packages()
    cv2.setNumThreads(1)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="usfm-storage-") as name:
        root = Path(name)
        images, origin = _images(root, options)
        side = -(-max(max(image.shape) for image in images) // 16) * 16
        raw = sum(image.size for image in images) / len(images)
        report: dict[str, Any] = {"images": len(images), "origin": origin, "raw_bytes_per_image": raw}
        report["encodings"] = {
            name: measured_encoding(encoding, images, side) for name, encoding in ENCODINGS.items()
        }
        report["containers"], report["not_installed"] = {}, {}
        for encoding in options.encodings:
            encoded = [ENCODINGS[encoding].encode(image) for image in images]
            with counting_s3() as server:
                for title, form in FORMATS.items():
                    if (module := MODULES.get(title)) and importlib.util.find_spec(module) is None:
                        report["not_installed"][title] = module
                        continue
                    folder = root / f"{len(report['containers'])}"
                    folder.mkdir()
                    report["containers"][f"{title}: {encoding}"] = measured_container(
                        form, encoded, folder, server if options.s3 else None
                    )
    Path(options.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file to write")
    parser.add_argument("--images", type=int, default=1024, help="at most so many")
    parser.add_argument("--shards", help="take the images of local shards")
    parser.add_argument("--corpus", default=str(CORPUS), help="else the still images that its manifest.csv names")
    parser.add_argument("--simulated", action="store_true", help="else, or with this, simulated ones")
    parser.add_argument("--encodings", type=lambda text: text.split(","), default=[next(iter(ENCODINGS))],
                        help=f"in containers; some of {', '.join(ENCODINGS)}")  # fmt: skip
    parser.add_argument("--no-s3", dest="s3", action="store_false")
    return parser.parse_args(arguments)


def _images(root: Path, options: argparse.Namespace) -> tuple[list[Pixels], str]:
    """Images of at most `LONGEST_SIDE_PX`, spread evenly over what there is, and where they are from."""
    manifest = Path(options.corpus) / "manifest.csv"
    if manifest.is_file() and not options.shards and not options.simulated:
        with manifest.open(encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.DictReader(stream) if line["media"] == "image"]
        chosen = [lines[n] for n in _spread(len(lines), options.images)]
        found = [cv2.imread(str(manifest.parent / line["path"]), cv2.IMREAD_GRAYSCALE) for line in chosen]
        return [np.ascontiguousarray(shrink(p, LONGEST_SIDE_PX)) for p in found if p is not None], "corpus"
    origin = "shards" if options.shards else "simulator"
    shards = Path(options.shards) if options.shards else simulated_shards(root / "shards", options.images, 0)
    reader = ShardReader(shards)
    values = [value for file in shard_files(shards) for value in reader.batch(file.path).column("image")]
    return [decode_grey(values[n].as_buffer()) for n in _spread(len(values), options.images)], origin


def _spread(length: int, count: int) -> list[int]:
    return [int(n) for n in np.linspace(0, length - 1, min(length, count))]


def measured_encoding(encoding: Encoding, images: list[Pixels], side: int) -> dict[str, Any]:
    """Bytes per image and rates per core, after a check of every pixel.

    Raises:
        ValueError: a lossless encoding changed an image.
    """
    encoded: list[bytes] = []
    encode_s = _seconds(lambda: encoded.__setitem__(slice(None), [encoding.encode(image) for image in images]), 1)
    error = 0
    for first in range(0, len(images), BATCH):
        canvases = np.zeros((len(images[first : first + BATCH]), side, side), np.uint8)
        encoding.decode(encoded[first : first + BATCH], canvases)
        for canvas, image in zip(canvases, images[first : first + BATCH], strict=True):
            expected = np.zeros_like(canvas)
            expected[: image.shape[0], : image.shape[1]] = image
            error = max(error, int(np.abs(canvas.astype(int) - expected).max()))
    if error and encoding.lossless:
        raise ValueError(f"a lossless encoding changed a pixel by {error}")

    def decode_all() -> None:
        for first in range(0, len(encoded), BATCH):
            part = encoded[first : first + BATCH]
            encoding.decode(part, np.zeros((len(part), side, side), np.uint8))

    decode_s = _seconds(decode_all, TRIES)
    return {
        "bytes_per_image": sum(map(len, encoded)) / len(images),
        "encoded_per_s": len(images) / encode_s,
        "decoded_per_s": len(images) / decode_s,
        "largest_error": error,
    }


def measured_container(
    form: Format, encoded: list[bytes], folder: Path, server: CountingS3 | None
) -> dict[str, Any]:
    """Size and rates of one container; every byte that comes back is compared.

    Raises:
        ValueError: other bytes came back.
    """
    rows = sorted(np.random.default_rng(0).choice(len(encoded), min(RANDOM_ROWS, len(encoded)), replace=False))
    wanted, rows = [encoded[row] for row in rows], [int(row) for row in rows]
    write_s = _seconds(lambda: form.write(folder, encoded), 1)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    result: dict[str, Any] = {"bytes_per_image": size / len(encoded), "written_per_s": len(encoded) / write_s}
    result["container_bytes_per_image"] = (size - sum(map(len, encoded))) / len(encoded)
    local = Place(str(folder))
    if list(form.in_order(local)) != encoded or form.take(local, rows) != wanted:
        raise ValueError("other bytes came back")
    result["in_order_per_s"] = len(encoded) / _seconds(lambda: sum(map(len, form.in_order(local))), TRIES)
    result["random_per_s"] = len(rows) / _seconds(lambda: form.take(local, rows), TRIES)
    if server is not None:
        server.upload(folder, folder.name)
        remote = Place(f"{BUCKET}/{folder.name}", server.endpoint)
        for title, read in {"in_order": lambda: list(form.in_order(remote)),
                            "random": lambda: form.take(remote, rows)}.items():  # fmt: skip
            server.reset()
            if read() != (encoded if title == "in_order" else wanted):
                raise ValueError("other bytes came back from S3")
            result[f"s3_{title}_requests"] = dict(server.requests)
            result[f"s3_{title}_bytes"] = server.bytes
        result["s3_rows"] = {"in_order": len(encoded), "random": len(rows)}
    return result


def _seconds(action: Callable[[], object], tries: int) -> float:
    """The fastest of some tries: other load only ever adds."""
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return min(taken)


def table(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    raw = report["raw_bytes_per_image"]
    lines = [
        f"{report['images']} images ({report['origin']}), {raw / 1024:.1f} KiB each as pixels",
        "", "| encoding | KiB | encoded/s | decoded/s, one core | largest error |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in report["encodings"].items():
        lines.append(f"| {name} | {r['bytes_per_image'] / 1024:.1f} | {r['encoded_per_s']:,.0f} | "
                     f"{r['decoded_per_s']:,.0f} | {r['largest_error']} |")  # fmt: skip
    lines += ["", "| container: encoding | bytes/image for the container | rows/s in order | rows/s at random | "
              "S3 in order: requests, bytes of data | S3 at random: requests, bytes of what was asked |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for name, r in report["containers"].items():
        remote = [_said(r, kind) for kind in ("in_order", "random")]
        lines.append(f"| {name} | {r['container_bytes_per_image']:.0f} | {r['in_order_per_s']:,.0f} | "
                     f"{r['random_per_s']:,.0f} | {remote[0]} | {remote[1]} |")  # fmt: skip
    lines += [f"| {name} | not installed: {module} | | | | |" for name, module in report["not_installed"].items()]
    return "\n".join(lines)


def _said(result: dict[str, Any], kind: str) -> str:
    if "s3_rows" not in result:
        return ""
    rows, requests = result["s3_rows"][kind], sum(result[f"s3_{kind}_requests"].values())
    wanted = (result["bytes_per_image"] - result["container_bytes_per_image"]) * rows
    return f"{requests:,} for {rows:,} rows, x{result[f's3_{kind}_bytes'] / wanted:.2f}"


if __name__ == "__main__":
    sys.exit(main())
