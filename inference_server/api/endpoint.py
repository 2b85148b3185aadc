"""The wrapper of every operation: deadline, errors, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope

from inference_server.api.deadline import Deadline
from inference_server.api.dependencies import settle, state_of
from inference_server.api.invalid_http import BROKEN_BODY
from inference_server.api.middleware.access_log import GONE, record_of
from inference_server.api.openapi import Operation
from inference_server.errors import (
    InferenceServerError,
    InvalidRequestError,
    MemoryShortageError,
    MethodError,
    PromptError,
    RequestError,
    UnknownPathError,
)
from schemas.common import validation_detail, validation_message

logger = logging.getLogger(__name__)

Wording = Callable[[InferenceServerError], dict[str, Any]]
"""Returns the response body for an error."""

_SINGLE = {
    name.lower().encode(): name
    for name in ("Authorization", "Content-Type", "Host", "Idempotency-Key", "Token", "X-Api-Key")
}
"""Headers that decide something and have one value, by their lower-case name."""

_ONCE = frozenset({b"idempotency-key"})
"""Those that must not be repeated with the same value either: a client made a mistake."""

Handler = Callable[[Request], Awaitable[Response]]


def message_wording(error: InferenceServerError) -> dict[str, Any]:
    """Return `{"message", "code"}`, or `{"detail", "code"}` for invalid fields of the request."""
    if isinstance(error, InvalidRequestError):
        return {"detail": error.detail, "code": error.reason}
    if isinstance(error, PromptError):
        item = {"loc": list(error.location), "msg": error.message, "type": "value_error"}
        return {"detail": [item], "code": error.reason}
    return {"message": error.message, "code": error.reason}


@dataclass(frozen=True, slots=True)
class VendorApi:
    """The API of one vendor: its operations, and how it reports errors.

    Attributes:
        operations: the operations.
        wording: returns the JSON body for an error.
        invalid: HTTP status of an invalid request. Default: 422.
        statuses: replacements of HTTP statuses that the vendor's API does not have. Default: none.
    """

    operations: tuple[Operation, ...]
    wording: Wording
    invalid: int = 422
    statuses: Mapping[int, int] = field(default_factory=dict)


class _RequestBody:
    """The ASGI messages of a request: its body for the handler, then the disconnect.

    Args:
        receive: ASGI callable that returns the next message.
        scope: the request's scope; tells whether the body is broken.
        begin: called when the body is complete; errors that it raises reach the handler.
    """

    def __init__(self, receive: Receive, scope: Scope, begin: Callable[[], None]) -> None:
        self._receive = receive
        self._scope = scope
        self._begin = begin
        self._complete = asyncio.Event()

    async def receive(self) -> Message:
        """Return the next message to the handler.

        Raises:
            RequestError: If the body is not valid HTTP.
        """
        message = await self._receive()
        broken = self._scope.get(BROKEN_BODY)
        if broken is not None and message["type"] == "http.request":
            raise RequestError(broken)
        if not message.get("more_body", False):
            self._complete.set()
            if message["type"] == "http.request":
                self._begin()
        return message

    async def wait_for_disconnect(self) -> None:
        """Return when the client disconnects.

        Until the body is complete, only the handler reads messages, and notices a disconnect
        itself. After that, the only message left is the disconnect.
        """
        await self._complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


def check_single_values(request: Request) -> None:
    """Refuse a request in which a header or a key that decides something contradicts itself.

    A proxy or another program in front may have decided by the other value. The other headers that
    decide something are lists (`content-encoding`, `accept-encoding`), or the parser refuses
    different values (`content-length`).

    Raises:
        RequestError: If such a header, or the parameter `api_key`, has several values.
    """
    seen: dict[bytes, bytes] = {}
    for name, value in request.headers.raw:
        if name not in _SINGLE:
            continue
        if name in seen and (value != seen[name] or name in _ONCE):
            raise RequestError(
                f"The request has several headers `{_SINGLE[name]}`. Send this header once."
            )
        seen[name] = value
    if len(set(request.query_params.getlist("api_key"))) > 1:
        raise RequestError("The URL has several parameters `api_key`. Send this parameter once.")


async def _unlimited(request: Request, handler: Handler) -> Response:
    """Serve a request even if the server is at capacity or stopping."""
    return await handler(request)


async def _admitted(request: Request, handler: Handler) -> Response:
    """Serve a request within the limit on requests in progress, until its client disconnects."""
    with state_of(request).admission.enter() as in_flight:
        body = _RequestBody(request.receive, request.scope, in_flight.begin)
        work = handler(Request(request.scope, body.receive))
        return await in_flight.run(work, body.wait_for_disconnect())


def endpoint(operation: Operation, api: VendorApi) -> Handler:
    """Wrap an operation's handler: deadline, errors, metrics.

    Args:
        operation: the operation to serve.
        api: the vendor's API that it belongs to, for errors.
    """
    route = operation.path
    # POST requests use the models; probes, metrics and job status are cheap.
    serve_one = _admitted if operation.method == "post" else _unlimited

    def error_response(error: InferenceServerError) -> Response:
        unclear = isinstance(error, InvalidRequestError | PromptError)
        status = api.statuses.get(error.status, error.status)
        status = api.invalid if unclear else status
        return JSONResponse(api.wording(error), status, dict(error.headers))

    async def serve(request: Request) -> Response:
        state = state_of(request)
        begin = time.perf_counter()
        record = record_of(request)
        record.route = route
        reason = ""
        held = request.state.held = AsyncExitStack()
        deadline = Deadline(state.settings.request_timeout, "INFERENCE_REQUEST_TIMEOUT")
        request.state.deadline = deadline
        try:
            async with held, deadline:
                check_single_values(request)
                response = await serve_one(request, operation.handler)
        except TimeoutError:
            late = deadline.error
            reason, response = late.reason, error_response(late)
        except ValidationError as error:
            detail = validation_detail(error)
            invalid = InvalidRequestError(validation_message(detail), detail)
            reason, response = invalid.reason, error_response(invalid)
        except InferenceServerError as error:
            reason, response = error.reason, error_response(error)
            state.metrics.refused(error)
        except MemoryError:
            logger.exception("Request %s ran out of memory", record.identity)
            short = MemoryShortageError.of_request()
            reason, response = short.reason, error_response(short)
            await state.segmenter.evict_half()
        except ClientDisconnect:
            reason, response = "gone", Response(status_code=GONE)
        except Exception:
            logger.exception("Request %s failed", record.identity)
            internal = InferenceServerError(
                f"Internal error. See the server's log for request id {record.identity}."
            )
            reason, response = internal.reason, error_response(internal)
        await settle(request, response, reason)
        seconds = time.perf_counter() - begin
        if state.admission.leaving:
            response.headers["connection"] = "close"
        state.metrics.requests.labels(route, response.status_code).inc()
        state.metrics.duration.labels(route).observe(seconds)
        state.metrics.observe(record.timings)
        if reason:
            record.reason = reason
            state.metrics.failures.labels(route, reason).inc()
        return response

    return serve


def not_found_handler(
    apis: Sequence[VendorApi],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Make the handler for unknown paths and methods.

    Args:
        apis: APIs whose error format is used for unknown paths that share the first segment with
            one of theirs: Segmind's clients may request any model name, and read `error` only.
    """
    wordings: dict[str, Wording] = {}
    for api in apis:
        for operation in api.operations:
            wordings.setdefault(operation.path.split("/")[1], api.wording)

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
        state_of(request).metrics.requests.labels("unknown", error.status_code).inc()
        allowed = (error.headers or {}).get("Allow")
        problem = f"Use {allowed} with this path." if allowed else "Unknown path."
        begin = request.scope["path"].split("/")[1:2]
        wording = wordings.get(begin[0] if begin else "", message_wording)
        kind = MethodError if allowed else UnknownPathError
        body = wording(kind(f"{problem} See /openapi.json for all operations."))
        return JSONResponse(body, error.status_code, error.headers)

    return answer
