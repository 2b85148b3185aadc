"""What every contract's routes read of a request: its server, its key, its JSON body."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request

from inference_server.auth import Tenant, key_from_request
from inference_server.errors import ImageTooLargeError, PromptError
from inference_server.metrics import Timings
from inference_server.routes.access import seen
from inference_server.settings import MiB, Settings
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
    return seen(request).timings


def announced_bytes(request: Request) -> int:
    """Bytes that the body is said to have; 0 where nothing is said."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdigit() else 0


async def _body(request: Request) -> bytes:
    """The body, refused as soon as it is known to be over a limit.

    It counts as memory in use for as long as the request does: what is made of it is as large.
    """
    state = state_of(request)
    limit = state.settings.max_body_mb * MiB
    over = ImageTooLargeError(
        f"The request body is larger than {limit // MiB} MiB. Send a smaller image, or a URL, or "
        "raise INFERENCE_MAX_BODY_MB."
    )
    if announced_bytes(request) > limit:
        raise over
    held: AsyncExitStack = request.state.held
    room = state.bodies.share(request.stream(), limit, over)
    share = await held.enter_async_context(room)
    return b"".join([chunk async for chunk in share.chunks()])


def _check_structure(raw: bytes, settings: Settings) -> None:
    """Refuses JSON that would become countless objects: 60 MiB of `[],` take gigabytes.

    Base64 has no such characters, and a few commas within texts do not matter.
    """
    most = settings.max_json_values
    count = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if count > most:
        raise PromptError(
            f"The body has more than {most:,} JSON values. Send fewer prompts, points or boxes at "
            "a time, or raise INFERENCE_MAX_JSON_VALUES on the server."
        )


def _check_depth(data: Mapping[str, Any], settings: Settings) -> None:
    most = settings.max_json_depth
    level: list[Any] = [data]
    for _ in range(most):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise PromptError(
        f"The body is nested more than {most} levels deep, and no field of a request is. Send it "
        "flatter, or raise INFERENCE_MAX_JSON_DEPTH on the server."
    )


def authenticate(request: Request, body: Mapping[str, Any] | None = None) -> Tenant:
    """Who is asking.

    Raises:
        AuthError: the key is missing or wrong.
    """
    key = key_from_request(request.query_params, request.headers, body)
    tenant = state_of(request).keys.authenticate(key)
    seen(request).tenant = tenant.name
    return tenant


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
        CapacityError: other bodies take all the room.
        SlowBodyError: the body takes too long to arrive.
        ValidationError: the body is not of the type.
        PromptError: the body is no JSON object, or has too many values or levels.
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
    raw = await _body(request)
    settings = state_of(request).settings

    def parse() -> tuple[Tenant, T]:
        try:
            _check_structure(raw, settings)
            data = orjson.loads(raw)
            if not isinstance(data, dict):
                raise PromptError("The body must be a JSON object.")
            _check_depth(data, settings)
        except (orjson.JSONDecodeError, PromptError) as error:
            authenticate(request)
            if isinstance(error, PromptError):
                raise
            raise PromptError(f"The body is not valid JSON: {error}.") from None
        tenant = authenticate(request, data)
        return tenant, use(data)

    return await (asyncio.to_thread(parse) if len(raw) > _SMALL else _now(parse))


async def _now(work: Callable[[], Any]) -> Any:
    return work()


def limits_of(settings: Any) -> Limits:
    """The bounds of requests, as the schemas take them."""
    names = Limits.__dataclass_fields__
    return Limits(**{name: getattr(settings, name) for name in names})
