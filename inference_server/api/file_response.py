"""Responses that are too large for memory: written to a temporary file, and sent from there."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from inference_server.api.dependencies import state_of, timings_of
from inference_server.api.responses import (
    GZIP_LEVEL,
    JSON,
    PiecewiseResponse,
    accepts_gzip,
    result_headers,
)
from inference_server.errors import ImageTooLargeError
from inference_server.images.file_bytes import no_space_reported
from inference_server.segmentation.types import EncodedImage
from inference_server.settings import MiB

T = TypeVar("T")

Write = Callable[[Path], None]
"""Writes the body of a response to a file."""


class FileResponse(PiecewiseResponse):
    """A file without a name, which is closed and thereby deleted when it has been sent, or when
    the client has gone.
    """

    file: IO[bytes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, then close it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.file.close()


async def respond_with_file(
    request: Request,
    image: EncodedImage | None,
    write: Write,
    media_type: str = JSON,
    extra: Mapping[str, str] | None = None,
) -> FileResponse:
    """Write a body to a temporary file, and make the response that sends it.

    The headers are those of `respond`.

    Args:
        request: the request to answer.
        image: image that was segmented; None omits its headers.
        write: writes the body; it runs in a thread for slow work. It may raise
            `InferenceServerError`.
        media_type: media type of the body. Default: JSON.
        extra: additional response headers. Default: none.

    Raises:
        StorageError: the temporary storage is full.
    """
    segmenter = state_of(request).segmenter
    timings = timings_of(request)

    def work() -> IO[bytes]:
        begin = time.perf_counter()
        # A directory, because GDAL replaces a file of the same name. The open file stays readable.
        with TemporaryDirectory(prefix="inference-") as directory:
            path = Path(directory, "body")
            with no_space_reported("INFERENCE_MAX_RASTER_REQUESTS"):
                write(path)
                file = path.open("rb")
        timings.add("serialise", time.perf_counter() - begin)
        return file

    file = await segmenter.in_slow_thread(work)

    async def read(offset: int, length: int) -> bytes:
        return await segmenter.in_thread(partial(_read, file, offset, length))

    try:
        response = await FileResponse.begin(
            read,
            os.fstat(file.fileno()).st_size,
            media_type=media_type,
            headers=result_headers(request, image, extra or {}),
        )
    except BaseException:
        file.close()
        raise
    response.file = file
    return response


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def compresses(request: Request) -> bool:
    """Whether a body of JSON is to be compressed."""
    return accepts_gzip(",".join(request.headers.getlist("accept-encoding")))


def write_pieces(path: Path, pieces: Iterable[bytes], max_mb: int, *, compress: bool) -> None:
    """Write a body from pieces.

    Args:
        path: the file.
        pieces: the pieces.
        max_mb: maximum size of the body in MiB, before compression.
        compress: whether to compress it with gzip.

    Raises:
        ImageTooLargeError: the body is too large.
    """
    opened = partial(gzip.open, compresslevel=GZIP_LEVEL) if compress else open
    written = 0
    with opened(path, "wb") as file:
        for piece in pieces:
            written += len(piece)
            _check(written, max_mb)
            file.write(piece)


def within(path: Path, strips: Iterable[T], max_mb: int) -> Iterator[T]:
    """Yield the parts of a file that another function writes, while it is not too large.

    Args:
        path: the file.
        strips: the parts.
        max_mb: maximum size of the file in MiB.

    Raises:
        ImageTooLargeError: the file is too large.
    """
    for strip in strips:
        _check(path.stat().st_size if path.exists() else 0, max_mb)
        yield strip


def _check(nbytes: int, max_mb: int) -> None:
    if nbytes > max_mb * MiB:
        raise ImageTooLargeError(
            f"The response is larger than {max_mb} MiB. Set min_size, send a part of the raster, "
            "choose another output format, or raise INFERENCE_MAX_RASTER_RESPONSE_MB."
        )
