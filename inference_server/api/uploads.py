"""Multipart forms with an image: streamed to bounded temporary storage, and always removed."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from tempfile import gettempdir
from typing import Generic

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inference_server.api.dependencies import (
    ModelT,
    admit,
    authenticate,
    charge,
    room_for,
    state_of,
    timings_of,
)
from inference_server.auth import Tenant, Work, key_from_request
from inference_server.errors import PromptError, RequestError, StorageError
from inference_server.segmentation.types import StoredImage

logger = logging.getLogger(__name__)

_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1 << 20
"""Of a field that is no file: ten thousand boxes."""

_KEY_WITHIN = 64 * 1024
"""Bytes of a form that are read of those who have not shown a key; it may be a field in them."""


@dataclass(frozen=True, slots=True)
class Upload(Generic[ModelT]):
    """A form that was read.

    Attributes:
        tenant: who asks.
        body: the form.
        image: its file.
    """

    tenant: Tenant
    body: ModelT
    image: StoredImage


@asynccontextmanager
async def uploaded(
    request: Request, model: type[ModelT], work: Callable[[ModelT], Iterable[Work]]
) -> AsyncIterator[Upload[ModelT]]:
    """Authenticate a request for work, read its multipart form, and take its credits.

    The key is judged before the form is read: where it is not in the query or a header, it has to
    be the field `api_key` at the form's beginning, before the file. The form is gone afterwards.

    Args:
        request: with a form whose file is called `file`.
        model: type of the form.
        work: what a form asks for.

    Raises:
        AuthError: the key is missing or wrong, has expired or was revoked.
        ScopeError: it is not for this.
        RateError: it asks too often.
        CreditsError: it has not enough credits.
        ImageTooLargeError: the form is over the limit.
        CapacityError: there is no temporary storage left for it.
        SlowBodyError: it takes too long to arrive.
        ValidationError: the form is not of the type.
        PromptError: the body is no such form.
        StorageError: the key cannot be checked, or its credits not be counted, now; or the
            temporary storage is full.
    """
    state = state_of(request)
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    in_form = is_form and key_from_request(request.query_params, request.headers) is None
    if not in_form or state.gate.is_open:
        in_form = False
        key = await admit(request, authenticate(request))
    remedy = "Send a smaller image, or raise INFERENCE_MAX_UPLOAD_MB."
    room = room_for(request, state.uploads, state.settings.max_upload_mb, "upload", remedy)
    if not is_form:
        raise PromptError("Send the image in the field `file` of multipart/form-data.", _FILE)
    async with room as share:
        chunks = share.chunks()
        if in_form:
            begin = await _beginning(chunks)
            key = await admit(request, authenticate(request, await _fields(request, begin)))
            chunks = _chained(begin, chunks)
        with timings_of(request).measure("upload"):
            form = await _parse(request, chunks)
        try:
            body = model.model_validate(dict(form), context=state.limits)
            file = form["file"]
            assert isinstance(file, UploadFile)  # noqa: S101 - the type of the form says so
            await charge(request, work(body))
            image = await state.segmenter.in_thread(lambda: StoredImage.of(file.file.read()))
        finally:
            await form.close()
        yield Upload(key.tenant, body, image)


_FILE = ("body", "file")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How a full disk is told: it is full, one's share of it is, or a file may grow no more."""


async def _beginning(chunks: AsyncGenerator[bytes, None]) -> bytes:
    """The first bytes of a form."""
    begin = b""
    while len(begin) < _KEY_WITHIN and (chunk := await anext(chunks, None)):
        begin += chunk
    return begin


async def _chained(
    begin: bytes, chunks: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    yield begin
    async for chunk in chunks:
        yield chunk


async def _fields(request: Request, begin: bytes) -> Mapping[str, object]:
    """The fields that are whole in the beginning of a form; none where it is no form."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        yield begin[:_KEY_WITHIN]
        # So that the parser lets go of a file that has begun.
        raise MultiPartException("What follows is read of those who have shown a key.")

    parser = _parser(request, chunks())
    with suppress(MultiPartException):
        await parser.parse()
    return dict(parser.items)


async def _parse(request: Request, chunks: AsyncGenerator[bytes, None]) -> FormData:
    try:
        return await _parser(request, chunks).parse()
    except MultiPartException as error:
        raise RequestError(f"The form cannot be read: {error.message}") from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        logger.error("There is no room for uploads in %s: %s", gettempdir(), error.strerror)
        raise StorageError(
            "The server's temporary storage is full. Try again later, or give it more room or "
            "lower INFERENCE_UPLOAD_STORAGE_MB."
        ) from None


def _parser(request: Request, chunks: AsyncGenerator[bytes, None]) -> MultiPartParser:
    # `request.form()` does the same, without a bound on files.
    return MultiPartParser(
        request.headers,
        chunks,
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
