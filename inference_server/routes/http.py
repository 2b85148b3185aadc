"""What every contract's routes do alike: read, authenticate, time, word errors, answer."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from inference_server.auth import Tenant, key_from_request
from inference_server.encoder import Encoded
from inference_server.errors import (
    DeadlineError,
    ImageTooLargeError,
    InferenceServerError,
    InvalidRequestError,
    PromptError,
)
from inference_server.metrics import Timings
from inference_server.openapi import Operation
from inference_server.settings import MiB
from inference_server.state import ServerState
from schemas.common import Limits, validation_detail, validation_message

logger = logging.getLogger("inference_server.access")

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)
Wording = Callable[[InferenceServerError], dict[str, Any]]
"""The body of an error."""

Handler = Callable[[Request], Awaitable[Response]]

_SMALL = 64 * 1024
"""Bodies up to this many bytes are parsed and compressed on the event loop: a thread costs more."""

_LONGEST_PATH = 100
"""Characters of an unknown path in the log."""

_JSON = "application/json"
_GZIP_FROM = 1024
_GZIP_LEVEL = 1
_GONE = 499
"""What the access log and the metrics say of a client that hung up, as nginx does."""


def message_wording(error: InferenceServerError) -> dict[str, Any]:
    """`{"message": ...}`, or `{"detail": [...]}` for what is wrong with the request's fields."""
    if isinstance(error, InvalidRequestError):
        return {"detail": error.detail}
    if isinstance(error, PromptError):
        return {
            "detail": [{"loc": list(error.location), "msg": error.message, "type": "value_error"}]
        }
    return {"message": error.message}


@dataclass(frozen=True, slots=True)
class Contract:
    """What clients of one system expect of this server.

    Attributes:
        operations: what is served.
        wording: how errors are told.
        invalid: the status of a request that is not of its type or cannot be meant.
        statuses: in place of those of other errors, where the contract does not know them.
    """

    operations: tuple[Operation, ...]
    wording: Wording
    invalid: int = 422
    statuses: Mapping[int, int] = field(default_factory=dict)


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


def _accepts_gzip(accepted: str) -> bool:
    """Whether an `Accept-Encoding` allows gzip; a quality of 0 forbids it."""
    codings = {}
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, quality = part.partition(";")
        codings[name] = not re.fullmatch(r"q=0(\.0*)?", quality)
    return codings.get("gzip", codings.get("*", False))


async def answer(
    request: Request,
    encoded: Encoded | None,
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
    zipped = media_type == _JSON and _accepts_gzip(accepted)

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


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Await a handler, and cancel it when its client hangs up."""
    task = asyncio.create_task(work)

    async def hung_up() -> None:
        # Reading is the handler's until it has the body; after that only a goodbye can come.
        while not task.done():
            await asyncio.sleep(0.25)
            if getattr(request, "_stream_consumed", False) and await request.is_disconnected():
                task.cancel()
                return

    watch = asyncio.create_task(hung_up())
    try:
        return await task
    except asyncio.CancelledError:
        task.cancel()
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise ClientDisconnect from None
    finally:
        watch.cancel()


def endpoint(operation: Operation, contract: Contract) -> Handler:
    """Wrap an operation's handler: request id, deadline, errors, metrics, access log.

    Args:
        operation: what to serve.
        contract: that it belongs to.
    """
    route = operation.path

    def failed(error: InferenceServerError) -> Response:
        unclear = isinstance(error, InvalidRequestError | PromptError)
        status = contract.statuses.get(error.status, error.status)
        status = contract.invalid if unclear else status
        return JSONResponse(contract.wording(error), status, dict(error.headers))

    async def serve(request: Request) -> Response:
        state = state_of(request)
        begin = time.perf_counter()
        request.state.timings = Timings()
        identity = uuid.uuid4().hex[:16]
        reason = ""
        limit = state.settings.request_timeout
        try:
            async with asyncio.timeout(limit):
                response = await _unless_gone(request, operation.handler(request))  # type: ignore[arg-type]
        except TimeoutError:
            late = DeadlineError(
                f"The request took longer than {limit:g} seconds. Try again when the server is "
                "less busy, or raise INFERENCE_REQUEST_TIMEOUT."
            )
            reason, response = late.reason, failed(late)
        except ValidationError as error:
            detail = validation_detail(error)
            invalid = InvalidRequestError(validation_message(detail), detail)
            reason, response = invalid.reason, failed(invalid)
        except InferenceServerError as error:
            reason, response = error.reason, failed(error)
        except ClientDisconnect:
            reason, response = "gone", Response(status_code=_GONE)
        except Exception:
            logger.exception("Request %s failed", identity)
            internal = InferenceServerError(
                f"Internal error; the server's log has it under request id {identity}."
            )
            reason, response = internal.reason, failed(internal)
        seconds = time.perf_counter() - begin
        response.headers["x-request-id"] = identity
        state.metrics.requests.labels(route, response.status_code).inc()
        state.metrics.duration.labels(route).observe(seconds)
        state.metrics.observe(request.state.timings)
        if reason:
            state.metrics.failures.labels(route, reason).inc()
        logger.info(
            "%s %s %d %.0f ms%s id=%s",
            request.method,
            route,
            response.status_code,
            seconds * 1e3,
            f" ({reason})" if reason else "",
            identity,
        )
        return response

    return serve


async def unknown(request: Request, error: Exception) -> Response:
    """Answer a request that no operation takes: an unknown path, or a method that it has not."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    identity = uuid.uuid4().hex[:16]
    headers = {**(error.headers or {}), "x-request-id": identity}
    path = _loggable(request.scope["path"])
    method = _loggable(request.method)
    logger.info("%s %s %d id=%s", method, path, error.status_code, identity)
    # Segmind's clients ask for any model by its name, and read nothing but `error`.
    word = "error" if request.scope["path"].startswith(("/v1/", "/v2/")) else "message"
    return JSONResponse({word: error.detail}, error.status_code, headers)


def _loggable(text: str) -> str:
    """What a client sent as a path, short, printable, and without what may be a query after all."""
    path = re.split(r"[?&;=#]", text, maxsplit=1)[0]
    return quote(path[:_LONGEST_PATH]) + ("…" if len(path) > _LONGEST_PATH else "")


def limits_of(settings: Any) -> Limits:
    """The bounds of requests, as the schemas take them."""
    names = Limits.__dataclass_fields__
    return Limits(**{name: getattr(settings, name) for name in names})
