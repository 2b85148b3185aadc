"""Roboflow requests as JSON, or as multipart forms with the image as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Generic

import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from inference_server.api.dependencies import ModelT, charge, read, state_of
from inference_server.api.json_body import parse_object
from inference_server.api.uploads import is_form, received
from inference_server.auth import Tenant, Work
from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.images.raster_source import RasterSource
from inference_server.images.window_reader import RasterLimits
from inference_server.segmentation.types import StoredImage
from inference_server.settings import MiB

_PARTS = ("api_key", "image", "request")
_MOST_FILES = 4
"""One more than there are parts, so that a part that is sent twice is named."""

_TYPES = (
    "Send the body as application/json, or as multipart/form-data with the parts `image` (the "
    "file) and `request` (all other fields as JSON)."
)


@dataclass(frozen=True, slots=True)
class ImageBody(Generic[ModelT]):
    """A validated request.

    Attributes:
        tenant: owner of the API key.
        body: the fields; those of a form have no `image`.
        file: the image of a form; None if the request is JSON.
        source: the image of a form that is too large for `file`; open until the request ends.
            Default: None.
    """

    tenant: Tenant
    body: ModelT
    file: StoredImage | None
    source: RasterSource | None = None


async def read_image_request(
    request: Request,
    model: type[ModelT],
    fields: type[ModelT],
    work: Callable[[ModelT], Iterable[Work]],
    *,
    rasters: bool = False,
) -> ImageBody[ModelT]:
    """Authenticate a request, read and validate its JSON or form, and charge its credits.

    The temporary storage of a form is in use until the request ends.

    Args:
        request: the request.
        model: schema of a JSON body.
        fields: schema of the part `request` of a form: the same without the image.
        work: returns the kinds of work that a body asks for.
        rasters: accept larger TIFF files, because they are read by windows. Default: False.

    Raises:
        InferenceServerError: As `read` and `received` raise.
        ImageTooLargeError: The image of a form exceeds `INFERENCE_MAX_IMAGE_MB`.
        PromptError: A part of a form is missing, sent twice, unknown, or not what it should be.
    """
    if not is_form(request):
        tenant, body = await read(request, model, work, types=_TYPES)
        return ImageBody(tenant, body, None)
    state = state_of(request)
    held: AsyncExitStack = request.state.held
    key, form = await held.enter_async_context(
        received(request, _with_key, _MOST_FILES, rasters=rasters)
    )
    held.push_async_callback(form.close)
    image, text = _parts(form)

    def parse() -> tuple[ModelT, StoredImage | None, RasterSource | None]:
        raw = text.file.read() if isinstance(text, UploadFile) else text.encode()
        data = _fields(raw, request)
        valid = fields.model_validate(data, context=state.limits)
        most = state.settings.max_image_mb
        if (image.size or 0) > most * MiB:
            source = RasterSource.of(image.file, RasterLimits.of(state.settings))
            if rasters and source.is_tiff:
                return valid, None, source
            source.close()
            raise ImageTooLargeError(
                f"The image is larger than {most} MiB. Send a smaller one, or raise "
                "INFERENCE_MAX_IMAGE_MB on the server."
            )
        return valid, StoredImage.of(image.file.read()), None

    body, file, source = await state.segmenter.in_slow_thread(parse)
    if source is not None:
        held.callback(source.close)
    await charge(request, work(body))
    return ImageBody(key.tenant, body, file, source)


def _with_key(fields: Mapping[str, object]) -> Mapping[str, object]:
    """Return the mapping that may hold the key: the form itself, or its JSON."""
    text = fields.get("request")
    if "api_key" not in fields and isinstance(text, str):
        with suppress(orjson.JSONDecodeError):
            data = orjson.loads(text)
            if isinstance(data, dict):
                return data
    return fields


def _parts(form: FormData) -> tuple[UploadFile, UploadFile | str]:
    """Return the image and the JSON of a form.

    Raises:
        PromptError: If a part is missing, sent twice or unknown, or the image is not a file.
    """
    names = [name for name, _ in form.multi_items()]
    for name in dict.fromkeys(names):
        if name not in _PARTS:
            raise PromptError(
                f"Unknown part {name[:64]!r}. Send the file as `image`, and all other fields as "
                "JSON in `request`.",
                ("body", name[:64]),
            )
        if names.count(name) > 1:
            raise PromptError(
                f"The part `{name}` is sent {names.count(name)} times; send it once.",
                ("body", name),
            )
    for name, what in (("image", "the image file"), ("request", "the other fields as JSON")):
        if name not in names:
            raise PromptError(f"The part `{name}` is missing; send {what} in it.", ("body", name))
    image = form["image"]
    if isinstance(image, str):
        raise PromptError(
            "The part `image` is a text; send it as a file, with a filename (curl: -F "
            "image=@photo.jpg).",
            ("body", "image"),
        )
    return image, form["request"]


def _fields(raw: bytes, request: Request) -> dict[str, object]:
    """Parse the part `request`.

    Raises:
        PromptError: If it is not a JSON object, has too many values or levels, is too large, or
            contains the image.
    """
    settings = state_of(request).settings
    where = ("body", "request")
    if len(raw) > settings.max_form_field_kb * 1024:
        raise PromptError(
            f"The part `request` is larger than {settings.max_form_field_kb} KiB. Send fewer "
            "prompts, or raise INFERENCE_MAX_FORM_FIELD_KB on the server.",
            where,
        )
    try:
        data = parse_object(raw, settings)
    except PromptError as error:
        raise PromptError(
            error.message.replace("The body", "The part `request`", 1), where
        ) from None
    if data.get("image") is not None:
        raise PromptError(
            "The part `request` contains `image`; leave it out: the file is in the part `image`.",
            (*where, "image"),
        )
    return data
