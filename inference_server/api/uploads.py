"""Multipart forms with an image: streamed to bounded temporary storage and always deleted."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, Generic, TypeVar

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inference_server.api.dependencies import (
    KEY_WITHIN,
    ModelT,
    admit,
    allow_raster_time,
    announced_bytes,
    authenticate,
    charge,
    reserve_body,
    state_of,
    timings_of,
)
from inference_server.api.json_body import media_type_of
from inference_server.auth import Key, Tenant, Work, key_from_request
from inference_server.errors import PromptError, RequestError
from inference_server.images.file_bytes import no_space_reported
from inference_server.images.raster_source import RasterSource
from inference_server.images.window_reader import RasterLimits
from inference_server.settings import MiB

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RasterUpload(Generic[ModelT]):
    """A validated form whose file may be a raster of gigabytes.

    Attributes:
        tenant: owner of the API key.
        body: the form's fields.
        source: the uploaded file, open until the context of `uploaded_raster` ends.
    """

    tenant: Tenant
    body: ModelT
    source: RasterSource


@asynccontextmanager
async def uploaded_raster(
    request: Request, model: type[ModelT], work: Callable[[ModelT], Iterable[Work]]
) -> AsyncIterator[RasterUpload[ModelT]]:
    """Authenticate a request, read its multipart form, and charge its credits.

    Authentication precedes reading the form: a key that is neither in the query nor in a header
    must be the form's field `api_key`, before the file. The file is not loaded into memory. The
    form's temporary file is deleted when the context ends; it has no name, so it does not outlive a
    crash either.

    Args:
        request: request with a form that has a file in the field `file`.
        model: schema of the form.
        work: returns the units of work of a form, which determine its price in credits.

    Raises:
        AuthError: the API key is missing, unknown, expired or revoked.
        ScopeError: the key lacks the required scope.
        RateError: the key exceeds its rate limit.
        CreditsError: the key has insufficient credits.
        ImageTooLargeError: the form exceeds the size limit.
        CapacityError: no temporary storage is free.
        SlowBodyError: the form arrives too slowly.
        EncodingError: the form's `Content-Encoding` is not supported.
        RequestError: the form is invalid or cut off.
        ValidationError: the form does not match the schema.
        PromptError: the body is not a multipart form.
        StorageError: the key database is unreachable, or the temporary storage is full.
    """
    limits = RasterLimits.of(state_of(request).settings)
    async with received(request, rasters=True) as (key, form):
        body, source = await _read(
            request, form, model, work, lambda file: RasterSource.of(file, limits)
        )
        with source:
            yield RasterUpload(key.tenant, body, source)


async def _read(
    request: Request,
    form: FormData,
    model: type[ModelT],
    work: Callable[[ModelT], Iterable[Work]],
    use: Callable[[IO[bytes]], T],
) -> tuple[ModelT, T]:
    """Validate a form, charge its credits, convert its file in a worker thread, and close it."""
    state = state_of(request)
    try:
        body = model.model_validate(dict(form), context=state.limits)
        file = form["file"]
        assert isinstance(file, UploadFile)  # noqa: S101 - the schema requires a file
        await charge(request, work(body))
        return body, await state.segmenter.in_thread(lambda: use(file.file))
    finally:
        await form.close()


def is_form(request: Request) -> bool:
    """Tell whether a request's body is a multipart form."""
    return media_type_of(request) == "multipart/form-data"


@asynccontextmanager
async def received(
    request: Request,
    key_fields: Callable[[Mapping[str, object]], Mapping[str, object]] = dict,
    max_files: int = 1,
    *,
    rasters: bool = False,
) -> AsyncIterator[tuple[Key, FormData]]:
    """Authenticate a request and receive its multipart form into temporary storage.

    Args:
        request: the request.
        key_fields: returns the mapping whose `api_key` is the key, from the complete fields in the
            first bytes of the form. Default: the fields themselves.
        max_files: maximum number of files in the form. Default: 1.
        rasters: whether the form may be larger, because its file is read by windows. Default: no.

    Yields:
        The caller's key, and the form, which the caller closes. Its bytes count as temporary
        storage until the context ends.
    """
    state = state_of(request)
    settings = state.settings
    in_form = is_form(request) and key_from_request(request.query_params, request.headers) is None
    if not in_form or state.auth.is_open:
        in_form = False
        key = await admit(request, authenticate(request))
    most, setting, timeout = settings.max_upload_mb, "INFERENCE_MAX_UPLOAD_MB", None
    if rasters and settings.max_raster_upload_mb > most:
        if announced_bytes(request) > most * MiB:
            timeout = settings.raster_timeout
            allow_raster_time(request)
        most, setting = settings.max_raster_upload_mb, "INFERENCE_MAX_RASTER_UPLOAD_MB"
    room = reserve_body(
        request,
        state.uploads,
        most,
        "upload",
        f"Send a smaller image, or raise {setting}.",
        has_key=not in_form,
        tenant=None if in_form else key.tenant.name,
        timeout=timeout,
    )
    if not is_form(request):
        raise PromptError("Send the image in the field `file` of multipart/form-data.", _FILE)
    async with room as reservation:
        chunks = reservation.chunks()
        if in_form:
            begin = await _beginning(chunks)
            fields = key_fields(await _fields(request, begin))
            key = await admit(request, authenticate(request, fields))
            reservation.show_key(key.tenant.name)
            chunks = _chained(begin, chunks)
        with timings_of(request).measure("upload"):
            form = await _parse(request, chunks, max_files)
        yield key, form


_FILE = ("body", "file")

_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
"""Names of UTF-8 and its subset in a form's Content-Type, in lower case."""


async def _beginning(chunks: AsyncGenerator[bytes, None]) -> bytes:
    """Read the first bytes of a form."""
    begin = b""
    while len(begin) < KEY_WITHIN and (chunk := await anext(chunks, None)):
        begin += chunk
    return begin


async def _chained(
    begin: bytes, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    yield begin
    async for chunk in chunks:
        yield chunk


async def _fields(request: Request, begin: bytes) -> Mapping[str, object]:
    """Parse the complete fields in the first bytes of a form; none if they are not a form."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield begin[:KEY_WITHIN]
        # Makes the parser close the temporary file of a part that has begun.
        raise MultiPartException("The rest is read after authentication.")

    parser = _parser(request, chunks())
    with suppress(MultiPartException):
        await parser.parse()
    return dict(parser.items)


async def _parse(request: Request, chunks: AsyncGenerator[bytes, None], max_files: int) -> FormData:
    try:
        with no_space_reported("INFERENCE_UPLOAD_STORAGE_MB"):
            return await _parser(request, chunks, max_files).parse_whole()
    except MultiPartException as error:
        raise RequestError(f"The form is invalid: {error.message}") from None


class _FormParser(MultiPartParser):
    """A parser that can tell whether a form is whole: Starlette's accepts one that is cut off."""

    _is_whole = False

    def on_end(self) -> None:
        """Note that the closing boundary has arrived."""
        self._is_whole = True

    async def parse_whole(self) -> FormData:
        """Parse the form to its closing boundary.

        Raises:
            MultiPartException: If the form is invalid or cut off.
        """
        self.stream = self._to_the_end(self.stream)
        return await self.parse()

    async def _to_the_end(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        is_empty = True
        async for chunk in chunks:
            is_empty = is_empty and not chunk
            yield chunk
        if not self._is_whole and not is_empty:
            # Raised within `parse`, which then closes the temporary file.
            raise MultiPartException("It is cut off before its closing boundary. Send it again.")


def _check_charset(request: Request) -> None:
    """Refuse a form in another encoding than UTF-8.

    Python also knows codecs that take quadratic time or raise errors of other kinds.
    """
    _, parameters = parse_options_header(request.headers.get("content-type", ""))
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1").strip().lower()
    if charset not in _CHARSETS:
        raise RequestError(
            f"The form's charset {charset[:32]!r} is not supported. Send the form in UTF-8, and no "
            "charset in its Content-Type."
        )


def _parser(
    request: Request, chunks: AsyncGenerator[bytes, None], max_files: int = 1
) -> _FormParser:
    _check_charset(request)
    settings = state_of(request).settings
    # `request.form()` has no limit on the number of files.
    return _FormParser(
        request.headers,
        chunks,
        max_files=max_files,
        max_fields=settings.max_form_fields,
        max_part_size=settings.max_form_field_kb * 1024,
    )
