"""Responses: rendered, serialised and compressed in one worker-thread call."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Self
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.middleware.access_log import record_of
from inference_server.api.model_ids import id_of
from inference_server.errors import StorageError, UnknownJobError
from inference_server.segmentation.types import EncodedImage

logger = logging.getLogger(__name__)

JSON = "application/json"
"""Media type of JSON."""

_GZIP_MIN_BYTES = 1024
GZIP_LEVEL = 1
"""Level of compression: the fastest."""

_PIECE_BYTES = 256 * 1024

ReadPiece = Callable[[int, int], Awaitable[bytes | None]]
"""Reads a piece of a stored file by offset and maximum length; None if the file is gone."""


def accepts_gzip(accepted: str) -> bool:
    """Tell whether an `Accept-Encoding` value allows gzip; a quality of 0 forbids it."""
    codings = {}
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, quality = part.partition(";")
        codings[name] = not re.fullmatch(r"q=0(\.0*)?", quality)
    return codings.get("gzip", codings.get("*", False))


def image_headers(
    model: str | None, hit: bool | None, mismatch: bool, stages: str = ""
) -> dict[str, str]:
    """Return the headers that tell how an image was segmented.

    Args:
        model: label of the checkpoint; None omits the header.
        hit: whether the embedding came from the cache; None omits the header.
        mismatch: whether another image was used than the one that was sent.
        stages: value of `server-timing`; empty omits the header. Default: empty.
    """
    headers = {}
    if model is not None:
        # The label may contain a directory's name in any script; header values are ASCII.
        headers["x-model"] = quote(model, safe="/, ")
    if hit is not None:
        headers["x-embedding-cache"] = "hit" if hit else "miss"
    if mismatch:
        headers["x-image-mismatch"] = "true"
    if stages:
        headers["server-timing"] = stages
    return headers


async def respond(
    request: Request,
    image: EncodedImage | None,
    render: Callable[[], object],
    media_type: str = JSON,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Render, serialise and compress a response body in one worker-thread call.

    Args:
        request: the request to answer.
        image: image that was segmented, for the headers `x-model`, `x-embedding-cache`,
            `x-image-mismatch` and those of Roboflow's clients; None omits them.
        render: returns a value that `orjson` serialises (numpy arrays included), or bytes of
            `media_type`. It runs in the worker thread and may raise `InferenceServerError`. Its
            time counts as `serialise`, except for steps that it measures itself.
        media_type: media type of the body; only JSON is compressed. Default JSON.
        extra: additional response headers; default none. A `server-timing` among them replaces
            that of this request.
    """
    timings = timings_of(request)
    accepted = ",".join(request.headers.getlist("accept-encoding"))
    # Other media types, such as `.npz`, are compressed already.
    compressible = media_type == JSON and accepts_gzip(accepted)

    def work() -> tuple[bytes, bool]:
        begin, measured = time.perf_counter(), sum(timings.seconds.values())
        content = render()
        if not isinstance(content, bytes):
            content = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        compressed = compressible and len(content) >= _GZIP_MIN_BYTES
        if compressed:
            content = gzip.compress(content, GZIP_LEVEL)
        measured = sum(timings.seconds.values()) - measured
        timings.add("serialise", time.perf_counter() - begin - measured)
        return content, compressed

    content, compressed = await state_of(request).segmenter.in_thread(work)
    headers = result_headers(request, image, extra)
    if compressed:
        headers["content-encoding"] = "gzip"
    return Response(content, media_type=media_type, headers=headers)


def result_headers(
    request: Request, image: EncodedImage | None, extra: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of a response about an image.

    Args:
        request: the request to answer.
        image: see `respond`.
        extra: see `respond`.
    """
    headers = {"vary": "accept-encoding", **extra}
    if image is not None:
        headers |= image_headers(image.model, image.hit, image.mismatch)
        headers |= _model_headers(request, image)
    headers.setdefault("server-timing", timings_of(request).header())
    return headers


def _model_headers(request: Request, image: EncodedImage) -> dict[str, str]:
    """Return the headers about models that Roboflow's client reads, in seconds."""
    headers = {"x-model-id": ",".join(quote(id_of(key)) for key in image.answered_by)}
    waited = timings_of(request).seconds.get("load")
    headers["x-model-cold-start"] = "false" if waited is None else "true"
    if waited is not None:
        headers["x-model-load-time"] = f"{waited:.4f}"
    headers["x-processing-time"] = f"{time.perf_counter() - record_of(request).begin:.4f}"
    return headers


class PiecewiseResponse(Response):
    """A stored file, read and sent in pieces, at the pace of its reader.

    `begin` makes one, and reads the first piece: if the storage fails then, the client gets an
    error response. If it fails later, the connection is closed before the announced length.

    Args:
        read: reads a piece of the file.
        nbytes: size of the file in bytes.
        first: the first piece.
        media_type: media type of the file.
        headers: additional response headers.
    """

    def __init__(
        self,
        read: ReadPiece,
        nbytes: int,
        first: bytes,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        length = {"content-length": str(nbytes)}
        super().__init__(media_type=media_type, headers={**headers, **length})
        self._read = read
        self._nbytes = nbytes
        self._first = first

    @classmethod
    async def begin(
        cls, read: ReadPiece, nbytes: int, *, media_type: str, headers: Mapping[str, str]
    ) -> Self:
        """Read the first piece, and make a response.

        Args:
            read: reads a piece of the file.
            nbytes: size of the file in bytes.
            media_type: media type of the file.
            headers: additional response headers.

        Raises:
            StorageError: If the storage is unavailable.
            UnknownJobError: If the file has just been deleted.
        """
        first = await read(0, _PIECE_BYTES) if nbytes else b""
        if first is None:
            raise UnknownJobError("File not found: it has expired.")
        return cls(read, nbytes, first, media_type, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response; stop reading the file when the client disconnects."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            sent, piece = 0, self._first
            while not gone.done():
                sent += len(piece)
                left = self._nbytes - sent
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
                if left <= 0:
                    return
                # `send` waits until the client has read the pieces before.
                piece = await self._next(sent)
                if not piece:
                    return
        finally:
            gone.cancel()

    async def _next(self, offset: int) -> bytes:
        """Read the next piece; return no bytes if that fails."""
        try:
            piece = await self._read(offset, _PIECE_BYTES)
        except StorageError as error:
            logger.error("A download was broken off: %s", error.message)
            return b""
        if not piece:
            logger.warning("A download was broken off: its file has expired")
        return piece or b""


async def _disconnect(receive: Receive) -> None:
    """Return when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
