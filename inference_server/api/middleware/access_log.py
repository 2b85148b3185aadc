"""The access log: a line a request, whatever answered it, and its span where there are traces.

A request has an id from here on, which is the client's own if it sent one that may stand in a log.
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
"""Characters of an unknown path in the log."""

_HARMLESS = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked for all day: that they were answered is told at the level `debug` alone, without a span."""

GONE = 499
"""What the access log and the metrics say of a client that hung up, as nginx does."""


@dataclass(slots=True)
class Seen:
    """What is known of a request, for the log and the traces.

    Attributes:
        identity: the request's id.
        route: the operation's path, as the OpenAPI document has it; empty where none took it.
        tenant: name of the key's owner; empty as long as it is unknown.
        reason: short stable word for why it failed.
        timings: durations of its steps.
        bytes_in: bytes of the body that were read.
        told: the line was written.
    """

    identity: str
    route: str = ""
    tenant: str = ""
    reason: str = ""
    timings: Timings = field(default_factory=Timings)
    bytes_in: int = 0
    told: bool = False


def seen(request: Request) -> Seen:
    """What is known of a request."""
    known = request.scope.setdefault("state", {}).get("seen")
    if not isinstance(known, Seen):  # outside of `AccessLog`
        known = request.scope["state"]["seen"] = Seen(_identity(""))
    return known


def _identity(sent: str) -> str:
    """The id that a client sent if it is harmless, or a new one."""
    return sent if _HARMLESS.fullmatch(sent) else uuid.uuid4().hex[:16]


class AccessLog:
    """Gives each request its id, and tells the log and the traces how it was answered.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request by the application, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = Seen(_identity(headers.get("x-request-id", "")))
        scope.setdefault("state", {})["seen"] = known
        traces: Traces | None = scope["app"].state.server.traces
        if traces is None or scope["path"] in _PROBES:
            with about(request_id=known.identity):
                await self._answer(scope, receive, send, known)
            return
        with traces.request(scope["method"], headers) as span:
            trace = f"{span.get_span_context().trace_id:032x}"
            with about(request_id=known.identity, trace_id=trace):
                fields = await self._answer(scope, receive, send, known)
            traces.describe(span, known.timings, _attributes(known, fields))

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, known: Seen
    ) -> dict[str, Any]:
        """Let the application answer; returns what the log said of it."""
        begin = time.perf_counter()
        fields: dict[str, Any] = {}

        async def receiving() -> Message:
            message = await receive()
            known.bytes_in += len(message.get("body", b""))
            return message

        def tell(status: int, headers: Headers) -> None:
            known.told = True
            fields.update(_fields(scope, known, status, time.perf_counter() - begin, headers))
            _log(fields)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = known.identity
                # Before the answer leaves: whoever has it finds the line in the log.
                tell(message["status"], answer)
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        except Exception:
            if not known.told:
                known.reason = "internal"
                tell(500, Headers())
            raise
        finally:
            if not known.told:
                known.reason = "gone"
                tell(GONE, Headers())
        return fields


def _fields(
    scope: Scope, known: Seen, status: int, seconds: float, headers: Headers
) -> dict[str, Any]:
    """The access log's fields, without those that are empty."""
    length = headers.get("content-length")
    found = {
        "method": loggable(scope["method"]),
        "route": known.route or loggable(scope["path"]),
        "status": status,
        "milliseconds": round(seconds * 1e3, 1),
        "reason": known.reason,
        "tenant": known.tenant,
        "cache": headers.get("x-embedding-cache"),
        "model": headers.get("x-model"),
        "bytes_in": known.bytes_in or None,
        "bytes_out": int(length) if length else None,
        "request_id": known.identity,
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _log(fields: dict[str, Any]) -> None:
    """Write the line."""
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


def _attributes(known: Seen, fields: dict[str, Any]) -> Attributes:
    """What a span tells, by the names of OpenTelemetry's conventions where there are any."""
    named = {
        "http.request.method": fields.get("method"),
        "http.route": known.route,
        "http.response.status_code": fields.get("status"),
        "http.request.body.size": known.bytes_in or None,
        "http.response.body.size": fields.get("bytes_out"),
        "error.type": known.reason,
        "inference.request_id": known.identity,
        "inference.tenant": known.tenant,
        "inference.cache": fields.get("cache"),
        "inference.model": fields.get("model"),
    }
    return {name: value for name, value in named.items() if value not in (None, "")}


def loggable(text: str) -> str:
    """What a client sent as a path, short, printable, and without what may be a query after all."""
    path = re.split(r"[?&;=#]", text, maxsplit=1)[0]
    return quote(path[:_LONGEST_PATH]) + ("…" if len(path) > _LONGEST_PATH else "")
