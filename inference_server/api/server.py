"""uvicorn with a graceful shutdown.

On a signal, uvicorn itself closes its socket at once, so that readiness probes fail to connect; it
ends requests in progress with a bare 500, and exits by the signal. Here:

1. For `INFERENCE_DRAIN_SECONDS` after SIGTERM, `/readyz` is 503, each response closes its
   connection, and requests are served. Ctrl-C skips this step: there is no load balancer to notice.
2. New requests get 503, probes are answered. Requests and jobs in progress have
   `INFERENCE_SHUTDOWN_TIMEOUT` seconds to finish.
3. Requests left after that, or at a second signal, get 503 in their API's format; jobs return to
   the queue.
4. The socket and all connections are closed, and the process exits with code 0.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from inference_server.api.lifecycle import ServerContext
from inference_server.api.protocol import GuardedProtocol

logger = logging.getLogger(__name__)

_TICK = 1.0
"""Seconds between updates of the `Date` header while draining."""

_PATIENCE = 2.0
"""Seconds in which a client must go on reading its response when nothing else is left to do."""


class Server(uvicorn.Server):
    """A server that drains.

    Args:
        config: uvicorn's configuration.
        state_of: returns the server's context; called after the application has started.
        stopping: called at the first signal. Default: does nothing.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        state_of: Callable[[], ServerContext],
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._state_of = state_of
        self._stopping = stopping
        self._signals: list[int] = []
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, cancel requests at the second, exit at the third."""
        self._signals.append(sig)
        if len(self._signals) == 1:
            self._stopping()
            self.should_exit = True
        elif len(self._signals) == 2 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hurry.set)
        else:
            super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        """Serve until a signal, then drain."""
        self._loop = asyncio.get_running_loop()
        await super().main_loop()
        limit = self._state_of().settings.shutdown_timeout
        begin = time.monotonic()
        delay = 0.0
        if signal.SIGTERM in self._signals:
            delay = self._state_of().settings.drain_seconds
        drained = asyncio.create_task(self._state_of().drain(self._hurry, delay))
        while not drained.done():
            await asyncio.wait([drained], timeout=_TICK)
            await self.on_tick(0)
        await drained
        left = 0.0 if self._hurry.is_set() else begin + delay + limit - time.monotonic()
        await self._flush_responses(max(_TICK, left))

    async def _flush_responses(self, seconds: float) -> None:
        """Wait until clients have read their responses; abort connections that do not.

        Args:
            seconds: how long to wait for clients that go on reading.
        """
        end = time.monotonic() + seconds
        while tasks := set(self.server_state.tasks):
            self._hurry_readers()
            left = end - time.monotonic()
            if left <= 0:
                break
            await asyncio.wait(tasks, timeout=min(_TICK, left))
        self._hurry_readers()
        if tasks:
            logger.warning("Shutdown timeout: %d clients do not read their responses", len(tasks))
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is not None and transport.get_write_buffer_size():
                    transport.abort()

    def _hurry_readers(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, GuardedProtocol):
                connection.hurry(_PATIENCE)
