"""Answers: serialised and compressed in a worker thread, with headers that tell how they came."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import state_of, timings_of
from inference_server.segmentation.types import EncodedImage

_JSON = "application/json"
_GZIP_FROM = 1024
_GZIP_LEVEL = 1


def accepts_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` allows gzip; a quality of 0 forbids it."""
    codings = {}
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, quality = part.partition(";")
        codings[name] = not re.fullmatch(r"q=0(\.0*)?", quality)
    return codings.get("gzip", codings.get("*", False))


async def answer(
    request: Request,
    encoded: EncodedImage | None,
    body: Callable[[], object],
    media_type: str = _JSON,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Serialise and compress an answer in a worker thread.

    Args:
        request: that is answered.
        encoded: the image, for the headers that tell about it.
        body: makes what `orjson` can write, or bytes of another media type.
        media_type: of the answer.
        extra: more headers.
    """
    timings = timings_of(request)
    accepted = ",".join(request.headers.getlist("accept-encoding"))
    # What is no JSON, such as `.npz`, is compressed already.
    zipped = media_type == _JSON and accepts_gzip(accepted)

    def render() -> tuple[bytes, bool]:
        with timings.measure("serialise"):
            content = body()
            if not isinstance(content, bytes):
                content = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
            if zipped and len(content) >= _GZIP_FROM:
                return gzip.compress(content, _GZIP_LEVEL), True
            return content, False

    content, compressed = await state_of(request).segmenter.in_thread(render)
    headers = {"vary": "accept-encoding", **extra}
    if compressed:
        headers["content-encoding"] = "gzip"
    if encoded is not None:
        # A directory may be called anything, and headers are ASCII.
        headers["x-model"] = quote(encoded.model, safe="/, ")
        headers["x-embedding-cache"] = "hit" if encoded.hit else "miss"
        if encoded.mismatch:
            headers["x-image-mismatch"] = "true"
    headers["server-timing"] = timings.header()
    return Response(content, media_type=media_type, headers=headers)
