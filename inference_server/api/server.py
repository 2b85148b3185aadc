"""uvicorn, with an end that load balancers and clients expect.

uvicorn by itself closes its socket as soon as it is told to stop, so that nobody can ask whether it
is ready any more; it drops what is under way with a bare 500; and it ends by the signal that it was
sent. Here:

1. `/readyz` is 503, every answer closes its connection, and requests are answered as ever, for
   `INFERENCE_DRAIN_SECONDS` after a SIGTERM; not after a Ctrl-C, where no balancer is to notice.
2. New work gets 503. Probes are answered. What is under way has `INFERENCE_SHUTDOWN_TIMEOUT`.
3. What is left, or after a second signal all that there is, gets 503 in its contract's words; jobs
   go back into the queue.
4. The socket and all connections are closed, and the process ends with 0.
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

logger = logging.getLogger(__name__)

_TICK = 1.0
"""Seconds between looks at the clock for the `Date` header."""


class Server(uvicorn.Server):
    """A server that drains.

    Args:
        config: of uvicorn.
        state_of: what the application is made of, once it has started.
        stopping: told when the first signal has come.
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
        """The first signal begins to drain, the second ends that, the third drops everything."""
        self._signals.append(sig)
        if len(self._signals) == 1:
            self._stopping()
            self.should_exit = True
        elif len(self._signals) == 2 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hurry.set)
        else:
            super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        """Serve until told to stop, and drain."""
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
        await self._send_out(max(_TICK, left))

    async def _send_out(self, seconds: float) -> None:
        """Let clients fetch the answers that are there; those who do not are cut off."""
        tasks = set(self.server_state.tasks)
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=seconds)
        if tasks:
            logger.warning("Not waited for: %d clients do not fetch their answers", len(tasks))
            for connection in list(self.server_state.connections):
                transport = getattr(connection, "transport", None)
                if transport is not None and transport.get_write_buffer_size():
                    transport.abort()
