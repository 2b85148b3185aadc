"""What every contract's operations are wrapped in: deadline, errors, metrics."""

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
from starlette.types import Message, Receive

from inference_server.api.dependencies import settle, state_of
from inference_server.api.middleware.access_log import GONE, seen
from inference_server.api.openapi import Operation
from inference_server.errors import (
    DeadlineError,
    InferenceServerError,
    InvalidRequestError,
    MemoryShortageError,
    PromptError,
)
from schemas.common import validation_detail, validation_message

logger = logging.getLogger(__name__)

Wording = Callable[[InferenceServerError], dict[str, Any]]
"""The body of an error."""

Handler = Callable[[Request], Awaitable[Response]]


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


class _RequestBody:
    """What a client sends, and its goodbye after that.

    Args:
        receive: the next message of it.
        begin: called when the request is whole; what it raises is the handler's to pass on.
    """

    def __init__(self, receive: Receive, begin: Callable[[], None]) -> None:
        self._receive = receive
        self._begin = begin
        self._whole = asyncio.Event()

    async def receive(self) -> Message:
        """The next message, for the handler."""
        message = await self._receive()
        if not message.get("more_body", False):
            self._whole.set()
            if message["type"] == "http.request":
                self._begin()
        return message

    async def goodbye(self) -> None:
        """Return when the client hangs up.

        Reading is the handler's until it has the body, and so is noticing that no more of it comes;
        after that only a goodbye can come.
        """
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _unlimited(request: Request, handler: Handler) -> Response:
    """Answer what is answered however busy the server is, and while it stops."""
    return await handler(request)


async def _admitted(request: Request, handler: Handler) -> Response:
    """Answer what is work: one of so many, and no longer than its client waits for it."""
    with state_of(request).admission.enter() as visit:
        line = _RequestBody(request.receive, visit.begin)
        work = handler(Request(request.scope, line.receive))
        return await visit.run(work, line.goodbye())


def endpoint(operation: Operation, contract: Contract) -> Handler:
    """Wrap an operation's handler: deadline, errors, metrics.

    Args:
        operation: what to serve.
        contract: that it belongs to.
    """
    route = operation.path
    # Whatever is posted wants work; probes, metrics, and how it stands with jobs are cheap.
    answered = _admitted if operation.method == "post" else _unlimited

    def failed(error: InferenceServerError) -> Response:
        unclear = isinstance(error, InvalidRequestError | PromptError)
        status = contract.statuses.get(error.status, error.status)
        status = contract.invalid if unclear else status
        return JSONResponse(contract.wording(error), status, dict(error.headers))

    async def serve(request: Request) -> Response:
        state = state_of(request)
        begin = time.perf_counter()
        known = seen(request)
        known.route = route
        reason = ""
        limit = state.settings.request_timeout
        held = request.state.held = AsyncExitStack()
        try:
            async with held, asyncio.timeout(limit):
                response = await answered(request, operation.handler)
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
            state.metrics.refused(error)
        except MemoryError:
            logger.exception("Request %s ran out of memory", known.identity)
            short = MemoryShortageError.of_request()
            reason, response = short.reason, failed(short)
            await state.segmenter.evict_half()
        except ClientDisconnect:
            reason, response = "gone", Response(status_code=GONE)
        except Exception:
            logger.exception("Request %s failed", known.identity)
            internal = InferenceServerError(
                f"Internal error; the server's log has it under request id {known.identity}."
            )
            reason, response = internal.reason, failed(internal)
        await settle(request, response, reason)
        seconds = time.perf_counter() - begin
        if state.admission.leaving:
            response.headers["connection"] = "close"
        state.metrics.requests.labels(route, response.status_code).inc()
        state.metrics.duration.labels(route).observe(seconds)
        state.metrics.observe(known.timings)
        if reason:
            known.reason = reason
            state.metrics.failures.labels(route, reason).inc()
        return response

    return serve


def unknown(contracts: Sequence[Contract]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Make what answers requests that no operation takes: of other paths, or by other methods.

    Args:
        contracts: whose words are used, each for paths that begin as its own do: Segmind's clients
            ask for any model by its name, and read nothing but `error`.
    """
    wordings: dict[str, Wording] = {}
    for contract in contracts:
        for operation in contract.operations:
            wordings.setdefault(operation.path.split("/")[1], contract.wording)

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
        state_of(request).metrics.requests.labels("unknown", error.status_code).inc()
        allowed = (error.headers or {}).get("Allow")
        told = f"This path takes {allowed}." if allowed else "This path is unknown."
        begin = request.scope["path"].split("/")[1:2]
        wording = wordings.get(begin[0] if begin else "", message_wording)
        body = wording(InferenceServerError(f"{told} GET /openapi.json lists what there is."))
        return JSONResponse(body, error.status_code, error.headers)

    return answer
