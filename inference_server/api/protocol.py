"""Connections: bounds on what a client may make the server hold before a request is complete.

uvicorn bounds neither how long the head of a request may take, nor how large it may be, nor how
many connections wait: a client that sends nothing at all holds its connection for ever. What a
request may cost once its head is there is bounded by the routes, in the contracts' words.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inference_server.settings import Settings

_LINGER = 5.0
"""Seconds for a client that was answered early to stop sending its body, and read the answer: on a
connection that is closed with bytes unread, the answer may be lost."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Made by `server_config`, which says what `settings` are."""

    settings: ClassVar[Settings]

    waiting_since: float | None = None
    """When the connection began to wait for a whole request; None while it is being answered."""
    _timer: asyncio.TimerHandle | None = None
    _head = 0
    """Bytes of the URL and the headers that are complete."""
    _pending = 0
    """Bytes since the parser has last told of something complete; of a head, or of a trailer."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._set_timer(None)
        self.waiting_since = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what came is a head without end."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > self._most and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The head is there: now the routes watch over time and size."""
        self._pending = 0
        self._set_timer(None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there; a client that was answered before may send its next one."""
        self._pending = 0
        if self.cycle.response_complete:
            self._wait()
        else:
            self.waiting_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is sent."""
        queued = bool(self.pipeline)
        super().on_response_complete()
        if queued or self.transport.is_closing():
            return
        if self.cycle.more_body:
            self._set_timer(_LINGER)
        else:
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        if self._head > self._most:
            self._refuse_head()
        else:
            self._refuse(400, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever asks for another protocol is answered by this one; the log need not know."""

    @property
    def _most(self) -> int:
        return self.settings.max_header_kb * 1024

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self._most:
            raise ValueError("the head is too large")  # the parser stops, and asks for an answer

    def _wait(self) -> None:
        """Begin to wait for a request."""
        # The loop's clock counts milliseconds: of a flood it could not tell who came first.
        self.waiting_since = time.monotonic()
        self._set_timer(self.settings.header_timeout)

    def _make_room(self) -> None:
        """Close the connection that has waited longest, where too many wait."""
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
        if self._pending:  # a head that has begun
            self._refuse(
                408,
                f"The head of the request did not arrive within {self.settings.header_timeout:g} "
                "seconds. Try again.",
            )
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(
            431,
            f"The URL and the headers are larger than {self.settings.max_header_kb} KiB. Send "
            "images in the body.",
        )

    def _refuse(self, status: int, message: str) -> None:
        """Answer in place of the application, and close."""
        reason = {400: "Bad Request", 408: "Request Timeout"}.get(
            status, "Request Header Fields Too Large"
        )
        content = orjson.dumps({"message": message})
        self.transport.write(
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\nconnection: close\r\n\r\n".encode()
            + content
        )
        self.transport.close()


def server_config(app: ASGIApp, settings: Settings, **options: Any) -> uvicorn.Config:
    """How uvicorn serves an application.

    Args:
        app: the application.
        settings: of the server.
        options: more of uvicorn's.
    """
    protocol = type("Protocol", (GuardedProtocol,), {"settings": settings})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        access_log=False,
        proxy_headers=False,  # INFERENCE_TRUSTED_PROXIES says which of them count
        **options,
    )
