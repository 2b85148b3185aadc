"""Multipart forms with an image: streamed to bounded temporary storage, and always removed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inference_server.auth import Tenant
from inference_server.errors import ImageTooLargeError, PromptError, RequestError
from inference_server.images.store import StoredImage
from inference_server.routes.requests import (
    ModelT,
    announced_bytes,
    authenticate,
    state_of,
    timings_of,
)
from inference_server.settings import MiB
from inference_server.upload_space import Share

_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 1 << 20
"""Of a field that is no file: ten thousand boxes."""


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
async def uploaded(request: Request, model: type[ModelT]) -> AsyncIterator[Upload[ModelT]]:
    """Authenticate a request and read its multipart form, which is gone afterwards.

    Args:
        request: with a form whose file is called `file`.
        model: type of the form.

    Raises:
        AuthError: the key is missing or wrong; told before the form is read.
        ImageTooLargeError: the form is over the limit.
        CapacityError: there is no temporary storage left for it.
        SlowBodyError: it takes too long to arrive.
        ValidationError: the form is not of the type.
        PromptError: the body is no such form.
    """
    tenant = authenticate(request)
    state = state_of(request)
    limit = state.settings.max_upload_mb * MiB
    over = ImageTooLargeError(
        f"The upload is larger than {limit // MiB} MiB. Send a smaller image, or raise "
        "INFERENCE_MAX_UPLOAD_MB."
    )
    if announced_bytes(request) > limit:
        raise over
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise PromptError("Send the image in the field `file` of multipart/form-data.", _FILE)
    async with state.uploads.share(request.stream(), limit, over) as share:
        with timings_of(request).measure("upload"):
            form = await _parse(request, share)
        try:
            body = model.model_validate(dict(form), context=state.limits)
            file = form["file"]
            assert isinstance(file, UploadFile)  # noqa: S101 - the type of the form says so
            image = await state.segmenter.in_thread(lambda: StoredImage.of(file.file.read()))
        finally:
            await form.close()
        yield Upload(tenant, body, image)


_FILE = ("body", "file")


async def _parse(request: Request, share: Share) -> FormData:
    # `request.form()` does the same, without a bound on files.
    parser = MultiPartParser(
        request.headers,
        share.chunks(),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RequestError(f"The form cannot be read: {error.message}") from None
