"""What every contract's operations are wrapped in: deadline, errors, metrics, access log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from inference_server.errors import (
    DeadlineError,
    InferenceServerError,
    InvalidRequestError,
    PromptError,
)
from inference_server.metrics import Timings
from inference_server.openapi import Operation
from inference_server.routes.requests import state_of
from schemas.common import validation_detail, validation_message

logger = logging.getLogger("inference_server.access")

Wording = Callable[[InferenceServerError], dict[str, Any]]
"""The body of an error."""

Handler = Callable[[Request], Awaitable[Response]]

_LONGEST_PATH = 100
"""Characters of an unknown path in the log."""

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
        held = request.state.held = AsyncExitStack()
        try:
            async with held, asyncio.timeout(limit):
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
