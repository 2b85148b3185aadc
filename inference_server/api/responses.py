"""Responses: rendered, serialised and compressed in one worker-thread call."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response

from inference_server.api.dependencies import state_of, timings_of
from inference_server.segmentation.types import EncodedImage

_JSON = "application/json"
_GZIP_MIN_BYTES = 1024
_GZIP_LEVEL = 1


def accepts_gzip(accepted: str) -> bool:
    """Tell whether an `Accept-Encoding` value allows gzip; a quality of 0 forbids it."""
    codings = {}
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, quality = part.partition(";")
        codings[name] = not re.fullmatch(r"q=0(\.0*)?", quality)
    return codings.get("gzip", codings.get("*", False))


async def respond(
    request: Request,
    image: EncodedImage | None,
    render: Callable[[], object],
    media_type: str = _JSON,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Render, serialise and compress a response body in one worker-thread call.

    Args:
        request: the request to answer.
        image: image that was segmented, for the headers `x-model`, `x-embedding-cache` and
            `x-image-mismatch`; None omits them.
        render: returns a value that `orjson` serialises (numpy arrays included), or bytes of
            `media_type`. It runs in the worker thread and may raise `InferenceServerError`. Its
            time counts as `serialise`, except for steps that it measures itself.
        media_type: media type of the body; only JSON is compressed. Default JSON.
        extra: additional response headers; default none.
    """
    timings = timings_of(request)
    accepted = ",".join(request.headers.getlist("accept-encoding"))
    # Other media types, such as `.npz`, are compressed already.
    compressible = media_type == _JSON and accepts_gzip(accepted)

    def work() -> tuple[bytes, bool]:
        begin, measured = time.perf_counter(), sum(timings.seconds.values())
        content = render()
        if not isinstance(content, bytes):
            content = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        compressed = compressible and len(content) >= _GZIP_MIN_BYTES
        if compressed:
            content = gzip.compress(content, _GZIP_LEVEL)
        measured = sum(timings.seconds.values()) - measured
        timings.add("serialise", time.perf_counter() - begin - measured)
        return content, compressed

    content, compressed = await state_of(request).segmenter.in_thread(work)
    headers = {"vary": "accept-encoding", **extra}
    if compressed:
        headers["content-encoding"] = "gzip"
    if image is not None:
        # The label may contain a directory's name in any script; header values are ASCII.
        headers["x-model"] = quote(image.model, safe="/, ")
        headers["x-embedding-cache"] = "hit" if image.hit else "miss"
        if image.mismatch:
            headers["x-image-mismatch"] = "true"
    headers["server-timing"] = timings.header()
    return Response(content, media_type=media_type, headers=headers)
