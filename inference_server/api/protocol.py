"""Limits on connections: before a request is complete, between requests, and while it is answered.

uvicorn limits neither how long the headers of a request may take, nor their size, nor the number of
waiting connections: a client that sends nothing holds its connection for ever. Once the headers
are complete, the routes enforce the limits, in the vendors' error formats. Clients that do not read
their responses are disconnected by `api.readers`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from math import ceil
from typing import Any, ClassVar, cast

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference_server.api.invalid_http import (
    BROKEN_BODY,
    CODING,
    REFUSALS,
    large_head,
    large_trailers,
    wording_of,
)
from inference_server.api.readers import MeteredTransport, Readers
from inference_server.settings import Settings


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `server_config` makes a subclass with the class attributes set.

    Attributes:
        settings: the server's settings.
        linger: seconds that a client has to stop sending its body and read an early response. If a
            connection is closed with bytes unread, the response may be lost.
        readers: the server's connections with responses to read.
        waiting_since: time at which the connection began to wait for a complete request; None while
            one is being answered.
    """

    settings: ClassVar[Settings]
    linger: ClassVar[float]
    readers: ClassVar[Readers]

    waiting_since: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _metered: MeteredTransport
    _in_head = False
    """Whether a part of a request's head has been parsed, and not yet all of it."""
    _in_body = False
    """Whether a request's head has been parsed, and its body is not complete."""
    _problem = ""
    """Why a header was refused, for the client; empty if the parser refused it."""
    _is_broken = False
    """Whether the parser has failed: further bytes are ignored."""
    _refusal: tuple[int, str] | None = None
    """Status and message of an error response that has to wait for those before it."""
    _idle = False
    """Whether the connection has been answered, and no byte of its next request has arrived."""
    _head = 0
    """Bytes of the URL and headers, or of the trailers, parsed so far."""
    _received = b""
    """Bytes that are being parsed."""
    _pending = 0
    """Bytes received since the parser completed the headers or a piece of the body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        self._metered = MeteredTransport(transport, self.readers, self.loop)
        super().connection_made(cast("asyncio.Transport", self._metered))
        self._wait()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._set_timer(None)
        self._metered.stop()
        self.waiting_since = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes; refuse headers that are too large."""
        if self._is_broken:
            return
        self._received = data
        self._pending += len(data)
        if self._idle:
            self._idle = False
            self._set_timer(self.settings.header_timeout)
        super().data_received(data)
        self._received = b""
        if self._pending > self._most and not (self._is_broken or self.transport.is_closing()):
            self._refuse_size()

    def on_message_begin(self) -> None:
        """Start to count the bytes of URL and headers."""
        super().on_message_begin()
        self._head = 0
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """Count a piece of the URL."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header or trailer. Trailers are ignored, as nothing may depend on them."""
        self._count(len(name) + len(value))
        if not self._in_head:
            return
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._problem = CODING
            raise ValueError(CODING)  # the parser then calls send_400_response
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the timer: from here on, the routes enforce time and size."""
        self._pending = self._head = 0
        self._in_head = False
        self._in_body = True
        self._set_timer(None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Handle a piece of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle a complete request; if it was already answered, wait for the next one."""
        self._pending = 0
        self._in_body = False
        if self.cycle.response_complete:
            self._wait()
        else:
            self.waiting_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to stop sending this one."""
        queued = bool(self.pipeline)
        super().on_response_complete()
        if queued or self.transport.is_closing():
            return
        if self._refusal is not None:
            self._send_refusal(*self._refusal)
            return
        if self.cycle.more_body:
            self._set_timer(self.linger)
        else:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not valid HTTP; called while the parser's error is handled."""
        del msg
        if self._head > self._most:
            self._refuse_size()
            return
        message = self._problem or wording_of(sys.exception(), self._received)
        if self._in_body:
            self._break_body(message)
        else:
            self._refuse(400, message)

    def _unsupported_upgrade_warning(self) -> None:
        """Do not log upgrade requests; they are answered over HTTP/1.1."""

    @property
    def _most(self) -> int:
        return self.settings.max_header_kb * 1024

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self._most:
            raise ValueError("headers too large")  # the parser then calls send_400_response

    def _wait(self) -> None:
        """Start to wait for a request: a first one, the rest of one, or a further one."""
        # uvloop's clock counts milliseconds, which cannot order the connections of a flood.
        self.waiting_since = time.monotonic()
        self._idle = self.cycle is not None and not self._in_head
        settings = self.settings
        self._set_timer(settings.keep_alive_timeout if self._idle else settings.header_timeout)

    def hurry(self, seconds: float) -> None:
        """Shorten the time that the client has to read a response; see `MeteredTransport`."""
        self._metered.hurry(seconds)

    def _make_room(self) -> None:
        """Close the connection that has waited longest if too many wait."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, GuardedProtocol) and each.waiting_since is not None
        ]
        if len(waiting) > self.settings.max_connections:
            longest = min(waiting, key=lambda each: each.waiting_since or 0.0)
            longest.waiting_since = None
            longest.transport.close()

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.transport.is_closing():
            return
        if self._pending:  # part of the headers has arrived
            self._refuse(
                408,
                f"The request headers did not arrive within {self.settings.header_timeout:g} "
                "seconds. Try again.",
            )
        else:
            self.transport.close()

    def _refuse_size(self) -> None:
        kibibytes = self.settings.max_header_kb
        if self._in_body:
            self._break_body(large_trailers(kibibytes))
        else:
            self._refuse(431, large_head(kibibytes))

    def _break_body(self, message: str) -> None:
        """Let the operation respond that the body is invalid, in its API's format."""
        self._is_broken = True
        if self.cycle.response_complete:
            self.transport.close()
            return
        self.cycle.keep_alive = False
        cast("dict[str, Any]", self.cycle.scope)[BROKEN_BODY] = message
        self.cycle.message_event.set()

    def _refuse(self, status: int, message: str) -> None:
        """Send an error response without the application, and close the connection."""
        self._is_broken = True
        if self.cycle is None or self.cycle.response_complete:
            self._send_refusal(status, message)
        else:  # an earlier request is being answered
            self._refusal = (status, message)

    def _send_refusal(self, status: int, message: str) -> None:
        reason, code = REFUSALS[status]
        content = orjson.dumps({"message": message, "code": code})
        self.transport.write(
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode()
            + content
        )
        self.transport.close()


def server_config(
    app: ASGIApp, settings: Settings, *, linger: float = 5.0, **options: Any
) -> uvicorn.Config:
    """Make the configuration of uvicorn.

    Args:
        app: the application.
        settings: the server's settings.
        linger: seconds that a client has to stop sending its body and read an early response.
            Default: 5.
        options: further options of `uvicorn.Config`.
    """
    protocol = type(
        "Protocol",
        (GuardedProtocol,),
        {"settings": settings, "linger": linger, "readers": Readers(settings)},
    )
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        proxy_headers=False,  # see `api.public_url`
        timeout_keep_alive=ceil(settings.keep_alive_timeout) + 1,  # the protocol has its own timer
        **options,
    )
