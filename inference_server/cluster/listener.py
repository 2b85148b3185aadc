"""A replica's listener: takes requests from ingresses directly, without Serve's handles.

A call through a Serve handle costs 4 ms of CPU time or more; one on a connection of its own costs
a tenth of that. Serve still places, checks, scales and replaces the replicas.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from inference_server.cluster.wire import Connection, Frame, Kind, packed

logger = logging.getLogger(__name__)

_WAITING_SECONDS = 1.0
"""Seconds for which an ingress's number of waiting requests counts; it is repeated until then."""

Answer = Callable[..., Awaitable[Any]]
"""Answers a request: takes the name of a method and its arguments."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica listens.

    Attributes:
        host: IP address of its machine.
        port: port.
        key: secret that both sides of a connection must know.
    """

    host: str
    port: int
    key: bytes = field(repr=False)

    def published(self) -> dict[str, Any]:
        """Return the address as metadata of a Serve replica."""
        return {"host": self.host, "port": self.port, "key": self.key.hex()}

    @classmethod
    def of(cls, metadata: dict[str, Any]) -> Address | None:
        """Read the address from the metadata of a Serve replica.

        Args:
            metadata: what `published` returned; empty for a replica without a listener.
        """
        if not metadata.keys() >= {"host", "port", "key"}:
            return None
        return cls(metadata["host"], metadata["port"], bytes.fromhex(metadata["key"]))


class ReplicaListener:
    """Listens for ingresses, and bounds the requests in progress.

    Args:
        answer: answers a request.
        handshakes: maximum number of connections that have not authenticated; the oldest one is
            closed for a further one.
        largest: maximum size of a request or an answer in bytes.

    Attributes:
        ongoing: number of requests in progress, or answered but not read yet.
    """

    def __init__(self, answer: Answer, handshakes: int, largest: int) -> None:
        self._answer = answer
        self._handshakes = handshakes
        self._largest = largest
        self._unproved: dict[_IngressConnection, None] = {}
        self._key = secrets.token_bytes(32)
        self._server: asyncio.Server | None = None
        self._connections: set[_IngressConnection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._leaving = False
        self.ongoing = 0

    async def start(self, host: str) -> Address:
        """Listen on a free port.

        Args:
            host: IP address to listen on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _IngressConnection(self), host, 0)
        return Address(host, self._server.sockets[0].getsockname()[1], self._key)

    @property
    def load(self) -> int:
        """Number of requests in progress, and of those that wait for this replica."""
        return self.ongoing + sum(each.waiting for each in self._connections)

    async def drain(self, seconds: float) -> None:
        """Take no more requests, wait for those in progress, and close.

        Args:
            seconds: how long to wait for them.
        """
        self._leaving = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("Shutdown timeout: %d requests in progress are lost", self.ongoing)
        if self._server is not None:
            self._server.close()
        for unproved in list(self._unproved):
            unproved.abort()
        for connection in list(self._connections):
            connection.close()

    def expect(self, connection: _IngressConnection) -> None:
        """Let a connection authenticate; close the oldest one if too many have not."""
        self._unproved[connection] = None
        if len(self._unproved) > self._handshakes:
            oldest = next(iter(self._unproved))
            del self._unproved[oldest]
            oldest.abort()

    def admit(self, limit: int) -> Kind:
        """Return whether a request may begin: `FREE`, `BUSY` or `LEAVING`.

        Args:
            limit: maximum number of requests in progress.
        """
        if self._leaving:
            return Kind.LEAVING
        return Kind.FREE if self.ongoing < limit else Kind.BUSY

    def begin(self) -> None:
        """Count a request."""
        self.ongoing += 1
        self._idle.clear()

    def end(self) -> None:
        """Count the end of a request."""
        self.ongoing -= 1
        if not self.ongoing:
            self._idle.set()

    async def answer(self, frame: Frame) -> Frame:
        """Answer a request; an unexpected error is logged and sent to the ingress."""
        try:
            method, arguments = frame.value()
            result = await self._answer(method, *arguments)
            payload = packed(result)
            if len(payload) > self._largest:
                logger.error("An answer has %d bytes, too many to send", len(payload))
                return Frame(frame.number, Kind.LARGE)
            return Frame(frame.number, Kind.RESULT, payload=payload)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Not by the ingress, which would wait for the answer until its own timeout.
            logger.warning("A request was cancelled in the replica")
            return Frame(frame.number, Kind.LOST)
        except Exception as error:
            logger.exception("Unexpected error in a request of an ingress")
            return Frame(frame.number, Kind.ERROR, payload=packed(repr(error)))


class _IngressConnection(Connection):
    """A connection from an ingress."""

    def __init__(self, listener: ReplicaListener) -> None:
        super().__init__(listener._key, is_replica=True, largest=listener._largest)
        self._listener = listener
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._waiting = 0
        self._told = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait at this ingress for the replica."""
        return self._waiting if time.monotonic() - self._told < _WAITING_SECONDS else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to authenticate, as one of a limited number."""
        super().connection_made(transport)
        self._listener.expect(self)

    def on_authenticated(self) -> None:
        """Take requests of this ingress."""
        self._listener._unproved.pop(self, None)
        self._listener._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the ingress's requests, which nobody waits for now."""
        super().connection_lost(exc)
        self._listener._unproved.pop(self, None)
        self._listener._connections.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def on_frame(self, frame: Frame) -> None:
        """Begin or cancel a request, or tell whether one could begin."""
        if frame.kind is Kind.CANCEL:
            if task := self._tasks.get(frame.number):
                task.cancel()
            return
        self._waiting, self._told = frame.waiting, time.monotonic()
        state = self._listener.admit(frame.limit)
        if frame.kind is Kind.ROOM or state is not Kind.FREE:
            self.send(Frame(frame.number, state))
            return
        self._listener.begin()
        task = asyncio.get_running_loop().create_task(self._run(frame))
        self._tasks[frame.number] = task
        task.add_done_callback(lambda _: self._end(frame.number))

    async def _run(self, frame: Frame) -> None:
        self.send(await self._listener.answer(frame))
        # Answers that an ingress does not read are in memory: they keep their places, also when
        # the ingress cancels their requests.
        self._tasks.pop(frame.number, None)
        await self.written.wait()

    def _end(self, number: int) -> None:
        self._tasks.pop(number, None)
        self._listener.end()
