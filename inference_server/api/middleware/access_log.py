"""The access log: one line per request, and one span per request if tracing is on.

Each request gets an id here: the client's own `X-Request-Id` if it is safe to log, or a new one.

Spans are made here instead of by OpenTelemetry's ASGI middleware: that one records the full URL,
whose query may hold an API key, names spans before the route is known, and adds a span for each
ASGI message.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference_server.observability.logging import about
from inference_server.observability.metrics import Timings
from inference_server.observability.tracing import Attributes, Traces

logger = logging.getLogger("inference_server.access")

_LONGEST_PATH = 100
"""Maximum number of characters of an unknown path in the log."""

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Polled all day: logged at level `debug` and without a span, unless they fail."""

GONE = 499
"""Status in the access log and the metrics if the client disconnected, as nginx has it."""


@dataclass(slots=True)
class RequestRecord:
    """What the access log and the traces record of a request.

    Attributes:
        identity: the request's id.
        route: path of the operation as in the OpenAPI document; empty for unknown paths.
        tenant: name of the key's tenant; empty until the request is authenticated.
        reason: short stable word for the failure; empty if the request succeeded.
        timings: durations of its stages.
        bytes_in: bytes of the body received so far.
        logged: whether the line was written.
        begin: when it arrived, in seconds of `time.perf_counter`.
    """

    identity: str
    route: str = ""
    tenant: str = ""
    reason: str = ""
    timings: Timings = field(default_factory=Timings)
    bytes_in: int = 0
    logged: bool = False
    begin: float = field(default_factory=time.perf_counter)


def record_of(request: Request) -> RequestRecord:
    """Return the record of a request; a new one outside of `AccessLog`."""
    record = request.scope.setdefault("state", {}).get("record")
    if not isinstance(record, RequestRecord):
        record = request.scope["state"]["record"] = RequestRecord(_identity(""))
    return record


def _identity(sent: str) -> str:
    """Return the id that a client sent if it is safe to log, or a new one."""
    return sent if _HARMLESS.fullmatch(sent) else uuid.uuid4().hex[:16]


class AccessLog:
    """ASGI middleware that gives each request an id, logs it and traces it.

    Args:
        app: the application to wrap.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and log the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = RequestRecord(_identity(headers.get("x-request-id", "")))
        scope.setdefault("state", {})["record"] = record
        traces: Traces | None = scope["app"].state.server.traces
        if traces is None or scope["path"] in _PROBES:
            with about(request_id=record.identity):
                await self._answer(scope, receive, send, record)
            return
        with traces.request(scope["method"], headers) as span:
            trace = f"{span.get_span_context().trace_id:032x}"
            with about(request_id=record.identity, trace_id=trace):
                fields = await self._answer(scope, receive, send, record)
            traces.describe(span, record.timings, _attributes(record, fields))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> dict[str, Any]:
        """Call the application; return the fields of the log line."""
        fields: dict[str, Any] = {}

        async def receiving() -> Message:
            message = await receive()
            record.bytes_in += len(message.get("body", b""))
            return message

        def log(status: int, headers: Headers) -> None:
            record.logged = True
            fields.update(
                _fields(scope, record, status, time.perf_counter() - record.begin, headers)
            )
            _log(fields)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = record.identity
                if answer.get("content-type") != "application/json":
                    # A browser that opens a file must not take it for a script or a page.
                    answer["x-content-type-options"] = "nosniff"
                # Logged before the response is sent: a client that has it finds the line.
                log(message["status"], answer)
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except Exception:
            if not record.logged:
                record.reason = "internal"
                log(500, Headers())
            raise
        finally:
            if not record.logged:
                record.reason = "gone"
                log(GONE, Headers())
        return fields


def _fields(
    scope: Scope, record: RequestRecord, status: int, seconds: float, headers: Headers
) -> dict[str, Any]:
    """Return the fields of the log line without empty ones."""
    length = headers.get("content-length")
    found = {
        "method": loggable(scope["method"]),
        "route": record.route or loggable(scope["path"]),
        "status": status,
        "milliseconds": round(seconds * 1e3, 1),
        "reason": record.reason,
        "tenant": record.tenant,
        "cache": headers.get("x-embedding-cache"),
        "model": headers.get("x-model"),
        "bytes_in": record.bytes_in or None,
        "bytes_out": int(length) if length else None,
        "request_id": record.identity,
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _log(fields: dict[str, Any]) -> None:
    """Write the log line."""
    quiet = fields["route"] in _PROBES and fields["status"] in (200, 503)
    marks = "".join(
        f" {word}={fields[name]}"
        for name, word in (
            ("tenant", "tenant"),
            ("cache", "cache"),
            ("bytes_in", "in"),
            ("bytes_out", "out"),
        )
        if name in fields
    )
    logger.log(
        logging.DEBUG if quiet else logging.INFO,
        "%s %s %d %.0f ms%s",
        fields["method"],
        fields["route"],
        fields["status"],
        fields["milliseconds"],
        f" ({fields['reason']})" if "reason" in fields else "",
        extra={**fields, "marks": marks},
    )


def _attributes(record: RequestRecord, fields: dict[str, Any]) -> Attributes:
    """Return the span attributes, named by OpenTelemetry's semantic conventions if they exist."""
    named = {
        "http.request.method": fields.get("method"),
        "http.route": record.route,
        "http.response.status_code": fields.get("status"),
        "http.request.body.size": record.bytes_in or None,
        "http.response.body.size": fields.get("bytes_out"),
        "error.type": record.reason,
        "inference.request_id": record.identity,
        "inference.tenant": record.tenant,
        "inference.cache": fields.get("cache"),
        "inference.model": fields.get("model"),
    }
    return {name: value for name, value in named.items() if value not in (None, "")}


def loggable(text: str) -> str:
    """Shorten and quote a path from a client, and cut off anything that may be a query."""
    path = re.split(r"[?&;=#]", text, maxsplit=1)[0]
    return quote(path[:_LONGEST_PATH]) + ("…" if len(path) > _LONGEST_PATH else "")
