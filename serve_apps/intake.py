"""What comes in: which model is meant, how large the body is, whether it is an image. Knows no Ray.

Each failure is a `Refusal` with its HTTP status, a code for programs and a reason for people.
"""

from collections.abc import Sequence

from fastapi import Request

from serve_apps.config import ServeConfig
from usfm.errors import ImageTooLarge, NoSuchFrame, UnreadableFile
from usfm.models.bundle import BundleSpec
from usfm.predict.decode import Decoded, decode

__all__ = ["Refusal", "choose", "decode_checked", "read_body", "refuse_unknown_parameters"]


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


def choose(specs: Sequence[BundleSpec], kinds: Sequence[str], name: str | None) -> int:
    """Number of the model of one of these kinds; the first one if no name is given.

    Raises:
        Refusal: 404, naming what there is.
    """
    known: dict[str, int] = {}
    for number, spec in enumerate(specs):
        if spec.kind in kinds:
            known.setdefault(spec.name, number)
    kind = " or ".join(kinds)
    if not known:
        served = ", ".join(sorted({spec.kind for spec in specs}))
        raise Refusal(404, "no_such_kind", f"no {kind} model is served here; served kinds: {served}")
    if name is None:
        return next(iter(known.values()))
    if name not in known:
        raise Refusal(404, "unknown_model", f"no {kind} model {name!r}; known: {', '.join(known)}")
    return known[name]


def refuse_unknown_parameters(request: Request) -> None:
    """A misspelt parameter would silently give another answer than the one asked for."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        reason = f"unknown parameter {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        raise Refusal(422, "unknown_parameter", reason)


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be larger than `limit` bytes.

    Raises:
        Refusal: 413 too large, 400 empty, 415 a form.
    """
    too_large = Refusal(413, "body_too_large", f"the body is larger than {limit / 2**20:g} MiB")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise Refusal(
            415, "form", "a multipart form; send the file itself as the body (curl --data-binary @image.png)"
        )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        chunks.append(chunk)
    if not size:
        raise Refusal(400, "empty_body", "the body is empty; send an image file as the body")
    return b"".join(chunks)


def decode_checked(body: bytes, frame: int, config: ServeConfig) -> Decoded:
    """Decode, with each failure as its status: 413 too many pixels, 422 no such frame, 415 not an image."""
    try:
        return decode(body, frame=frame, max_pixels=round(config.max_megapixels * 1e6))
    except ImageTooLarge as error:
        raise Refusal(413, "image_too_large", str(error)) from None
    except NoSuchFrame as error:
        raise Refusal(422, "no_such_frame", str(error)) from None
    except UnreadableFile as error:
        raise Refusal(415, "unreadable_image", str(error)) from None
