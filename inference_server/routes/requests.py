"""What every contract's routes read of a request: its server, its key, its JSON body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request

from inference_server.auth import Tenant, key_from_request
from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.metrics import Timings
from inference_server.settings import MiB
from inference_server.state import ServerState
from schemas.common import Limits

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed on the event loop: a thread costs more."""


def state_of(request: Request) -> ServerState:
    """The parts of the server that a request is answered with."""
    state: ServerState = request.app.state.server
    return state


def timings_of(request: Request) -> Timings:
    """Durations of this request's steps."""
    timings: Timings = request.state.timings
    return timings


def announced_bytes(request: Request) -> int:
    """Bytes that the body is said to have; 0 where nothing is said."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdigit() else 0


async def _body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be over the limit."""
    over = ImageTooLargeError(
        f"The request body is larger than {limit // MiB} MiB. Send a smaller image, or a URL, or "
        "raise INFERENCE_MAX_BODY_MB."
    )
    if announced_bytes(request) > limit:
        raise over
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise over
        chunks.append(chunk)
    return b"".join(chunks)


def authenticate(request: Request, body: Mapping[str, Any] | None = None) -> Tenant:
    """Who is asking.

    Raises:
        AuthError: the key is missing or wrong.
    """
    key = key_from_request(request.query_params, request.headers, body)
    return state_of(request).keys.authenticate(key)


async def read(request: Request, model: type[ModelT]) -> tuple[Tenant, ModelT]:
    """Authenticate a request and parse its JSON body.

    A key in the query or a header is judged before the body is read.

    Args:
        request: with a JSON body.
        model: type of the body.

    Returns:
        (who asks, the body).

    Raises:
        AuthError: the key is missing or wrong.
        ImageTooLargeError: the body is over the limit.
        ValidationError: the body is not of the type.
        PromptError: the body is no JSON object.
    """
    limits = state_of(request).limits
    return await read_with(request, lambda data: model.model_validate(data, context=limits))


async def read_with(request: Request, use: Callable[[dict[str, Any]], T]) -> tuple[Tenant, T]:
    """As `read`, for those who make something else of the JSON object.

    Args:
        request: with a JSON body.
        use: what to make of it; runs in a worker thread if it is large.

    Returns:
        (who asks, what was made).
    """
    if key_from_request(request.query_params, request.headers, None) is not None:
        authenticate(request)
    raw = await _body(request, state_of(request).settings.max_body_mb * MiB)

    def parse() -> tuple[Tenant, T]:
        try:
            data = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            authenticate(request)
            raise PromptError(f"The body is not valid JSON: {error}.") from None
        if not isinstance(data, dict):
            authenticate(request)
            raise PromptError("The body must be a JSON object.")
        tenant = authenticate(request, data)
        return tenant, use(data)

    return await (asyncio.to_thread(parse) if len(raw) > _SMALL else _now(parse))


async def _now(work: Callable[[], Any]) -> Any:
    return work()


def limits_of(settings: Any) -> Limits:
    """The bounds of requests, as the schemas take them."""
    names = Limits.__dataclass_fields__
    return Limits(**{name: getattr(settings, name) for name in names})
