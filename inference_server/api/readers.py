"""Bounds on responses that their clients read slowly, or not at all.

uvicorn writes a response to its connection and waits as long as the client likes. A connection that
is closed is kept as well, until its last byte is read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from inference_server.settings import MiB, Settings

logger = logging.getLogger(__name__)

_KiB = 1024
_LARGE = 64 * _KiB
"""Unread responses up to this many bytes are not compared with the bound on all of them."""


class Readers:
    """The connections of a server with responses to read.

    Args:
        settings: the server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.rate = settings.min_rate_kb * _KiB
        self.window = settings.min_rate_window
        self._max_bytes = settings.response_memory_mb * MiB
        self._reading: set[MeteredTransport] = set()

    def add(self, transport: MeteredTransport) -> None:
        """Count the unread bytes of a connection from now on."""
        self._reading.add(transport)

    def discard(self, transport: MeteredTransport) -> None:
        """Count the unread bytes of a connection no longer."""
        self._reading.discard(transport)

    def make_room(self) -> None:
        """Disconnect the slowest readers while all unread bytes together exceed their bound."""
        unread = {transport: transport.unread for transport in self._reading}
        slowest = sorted((each for each in unread if unread[each]), key=lambda each: each.pace)
        total = sum(unread.values())
        for transport in slowest[:-1]:  # a single response is bounded by its own limits
            if total <= self._max_bytes:
                return
            total -= unread[transport]
            transport.disconnect("unread responses exceed INFERENCE_RESPONSE_MEMORY_MB")


class MeteredTransport:
    """A connection's transport that is aborted if its client reads too slowly.

    In each window, the client must read the bytes that were unread when it began, or as many as the
    minimum rate asks for. Bytes count as read when the operating system has accepted them.

    Args:
        transport: the transport.
        readers: the server's connections with responses to read.
        loop: the event loop.
    """

    def __init__(
        self, transport: asyncio.Transport, readers: Readers, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._readers = readers
        self._loop = loop
        self._window = readers.window
        self._timer: asyncio.TimerHandle | None = None
        self._written = 0
        self._goal = 0
        self._begin = (0.0, 0)

    def __getattr__(self, name: str) -> Any:
        """Return everything else from the transport."""
        return getattr(self._transport, name)

    @property
    def unread(self) -> int:
        """Number of bytes that the client has not read."""
        return self._transport.get_write_buffer_size()

    @property
    def pace(self) -> float:
        """Bytes per second that the client has read since it last had none to read.

        One window at the minimum rate is added, so that a response that has just begun is not the
        slowest.
        """
        begin, read = self._begin
        bonus = self._readers.rate * self._readers.window
        return (self._read - read + bonus) / max(self._loop.time() - begin, 1e-3)

    @property
    def _read(self) -> int:
        return self._written - self.unread

    def write(self, data: bytes) -> None:
        """Write a piece of a response."""
        self._written += len(data)
        self._transport.write(data)
        unread = self.unread
        if unread and self._timer is None:
            self._begin = (self._loop.time(), self._read)
            self._readers.add(self)
            self._start_window()
        if unread > _LARGE:
            self._readers.make_room()

    def hurry(self, seconds: float) -> None:
        """Shorten the window; used when the server stops.

        Args:
            seconds: the new length of the window.
        """
        if seconds < self._window:
            self._window = seconds
            if self._timer is not None:
                self._start_window()

    def stop(self) -> None:
        """Watch no more, because the connection is lost."""
        self._readers.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def disconnect(self, why: str) -> None:
        """Abort the connection.

        Args:
            why: the reason, for the log.
        """
        logger.info("A client was disconnected with %d bytes unread: %s", self.unread, why)
        self.stop()
        self._transport.abort()

    def _start_window(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        share = max(1, round(self._readers.rate * self._window))
        self._goal = min(self._written, self._read + share)
        self._timer = self._loop.call_later(self._window, self._end_window)

    def _end_window(self) -> None:
        if not self.unread:
            self.stop()
        elif self._read < self._goal:
            self.disconnect("it reads slower than INFERENCE_MIN_RATE_KB")
        else:
            self._start_window()
