"""Clients that read their responses slowly, or not at all."""

from __future__ import annotations

import asyncio
import heapq
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server.api.lifecycle import ServerContext
from inference_server.api.protocol import server_config
from inference_server.api.readers import MeteredTransport, Readers
from inference_server.api.server import Server
from tests.api.serving import TIMEOUT, settings, until

KiB, MiB = 1 << 10, 1 << 20
SIZE = 64 * MiB
"""More than the buffers of both sockets hold."""

WINDOW = 10.0


class Clock:
    """A simulated clock with the timers of an event loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, int, Callable[[], None], asyncio.TimerHandle]] = []
        self._order = count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, work: Callable[[], None]) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(self.now + delay, work, (), cast("Any", self))
        heapq.heappush(self.timers, (self.now + delay, next(self._order), work, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by the handle."""

    def get_debug(self) -> bool:
        return False

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0][0] <= end:
            self.now, _, work, handle = heapq.heappop(self.timers)
            if not handle.cancelled():
                work()
        self.now = end


class Pipe:
    """A fake transport; the test decides how much its client reads."""

    def __init__(self) -> None:
        self.buffered = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.buffered += len(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def abort(self) -> None:
        self.aborted = True

    def read(self, size: int) -> None:
        self.buffered = max(0, self.buffered - size)


class Connections:
    """Metered connections without a server: 8 KiB/s over 10 s, 1 MiB together."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.readers = Readers(
            settings(min_rate_kb=8, min_rate_window=WINDOW, response_memory_mb=1)
        )

    def open(self) -> tuple[Pipe, MeteredTransport]:
        pipe, loop = Pipe(), cast("Any", self.clock)
        return pipe, MeteredTransport(cast("Any", pipe), self.readers, loop)


class TestRate:
    def test_a_client_that_reads_nothing_is_disconnected(self) -> None:
        connections = Connections()
        for size in (10, 500 * KiB):
            pipe, transport = connections.open()
            transport.write(bytes(size))
            connections.clock.advance(WINDOW - 1)
            assert not pipe.aborted
            connections.clock.advance(1)
            assert pipe.aborted

    @pytest.mark.parametrize(("rate", "stays"), [(8.1, True), (7.9, False)])
    def test_a_client_that_reads_at_the_rate_stays_connected(
        self, rate: float, stays: bool
    ) -> None:
        connections = Connections()
        pipe, transport = connections.open()
        transport.write(bytes(900 * KiB))
        while pipe.buffered and not pipe.aborted:
            pipe.read(round(rate * KiB))
            connections.clock.advance(1)
        assert pipe.aborted is not stays
        connections.clock.advance(3 * WINDOW)
        assert pipe.aborted is not stays

    def test_a_short_remainder_may_be_below_the_rate(self) -> None:
        connections = Connections()
        pipe, transport = connections.open()
        transport.write(bytes(10 * KiB))
        connections.clock.advance(WINDOW - 1)
        pipe.read(10 * KiB)
        connections.clock.advance(1)
        assert not pipe.aborted

    def test_each_response_has_its_own_window(self) -> None:
        """On a kept connection, responses follow each other, and each is read at once."""
        connections = Connections()
        pipe, transport = connections.open()
        for _ in range(5):
            transport.write(bytes(KiB))
            connections.clock.advance(0.1)
            pipe.read(KiB)
            connections.clock.advance(WINDOW - 0.2)
            transport.write(bytes(KiB))
            connections.clock.advance(0.1)
            assert not pipe.aborted
            pipe.read(KiB)
        transport.write(bytes(KiB))
        connections.clock.advance(2 * WINDOW)
        assert pipe.aborted

    def test_when_the_server_stops_the_window_is_shorter(self) -> None:
        connections = Connections()
        (deaf, first), (steady, second), (later, third) = (connections.open() for _ in range(3))
        first.write(bytes(500 * KiB))
        second.write(bytes(500 * KiB))
        for transport in (first, second, third):
            transport.hurry(2)
        for _ in range(10):
            steady.read(9 * KiB)
            for transport in (first, second, third):
                transport.hurry(2)  # repeated calls change nothing
            connections.clock.advance(1)
        assert deaf.aborted
        assert not steady.aborted
        third.write(bytes(KiB))
        connections.clock.advance(2)
        assert later.aborted

    def test_a_lost_connection_is_forgotten(self) -> None:
        connections = Connections()
        pipe, transport = connections.open()
        transport.write(bytes(KiB))
        transport.stop()
        connections.clock.advance(2 * WINDOW)
        assert not pipe.aborted
        assert not connections.readers._reading


class TestMemory:
    def test_the_slowest_readers_are_disconnected_first(self) -> None:
        connections = Connections()
        (deaf, first), (steady, second), (new, third) = (connections.open() for _ in range(3))
        first.write(bytes(400 * KiB))
        second.write(bytes(600 * KiB))
        connections.clock.advance(5)
        steady.read(300 * KiB)
        third.write(bytes(200 * KiB))
        assert (deaf.aborted, steady.aborted, new.aborted) == (False, False, False)
        third.write(bytes(200 * KiB))
        assert (deaf.aborted, steady.aborted, new.aborted) == (True, False, False)

    def test_a_single_response_may_be_larger(self) -> None:
        connections = Connections()
        pipe, transport = connections.open()
        transport.write(bytes(3 * MiB))
        assert not pipe.aborted


async def in_one_piece(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"%d" % SIZE)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(64):
        await send({"type": "http.response.body", "body": bytes(MiB), "more_body": True})
    await send({"type": "http.response.body"})


class NoWork:
    """A server context without work."""

    def __init__(self) -> None:
        self.settings = settings(shutdown_timeout=3600)

    async def drain(self, hurry: asyncio.Event, delay: float) -> None:
        """Return at once."""


@contextmanager
def running(app: ASGIApp, **changes: Any) -> Iterator[tuple[Server, int, threading.Thread]]:
    """A server of an application: (the server, its port, its thread)."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = server_config(
        app, settings(**changes), log_config=None, lifespan="off", timeout_graceful_shutdown=3600
    )
    server = Server(config, lambda: cast("ServerContext", NoWork()))
    thread = threading.Thread(
        target=uvicorn.Server.run, args=(server, [listener]), daemon=True, name="readers"
    )
    thread.start()
    try:
        until(lambda: server.started)
        yield server, listener.getsockname()[1], thread
    finally:
        server.force_exit = server.should_exit = True
        thread.join(TIMEOUT)
        listener.close()
    assert not thread.is_alive()


def deaf_client(port: int, *headers: str) -> socket.socket:
    """Send a request, and do not read the response."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(TIMEOUT)
    client.connect(("127.0.0.1", port))
    client.sendall("\r\n".join(["GET / HTTP/1.1", "host: x", *headers, "", ""]).encode())
    return client


@pytest.mark.parametrize("app", [in_one_piece, in_pieces])
@pytest.mark.parametrize("headers", [(), ("connection: close",)], ids=["kept", "closed"])
def test_an_unread_connection_is_closed(app: ASGIApp, headers: tuple[str, ...]) -> None:
    with running(app, min_rate_window=0.2, header_timeout=3600) as (server, port, _):
        state = server.server_state
        with deaf_client(port, *headers):
            until(lambda: state.total_requests or state.tasks)
            until(lambda: not state.connections and not state.tasks, 30)


@pytest.mark.parametrize("app", [in_one_piece, in_pieces])
@pytest.mark.parametrize("headers", [(), ("connection: close",)], ids=["kept", "closed"])
def test_a_stop_does_not_wait_for_unread_responses(app: ASGIApp, headers: tuple[str, ...]) -> None:
    with (
        running(app, min_rate_window=3600, keep_alive_timeout=3600) as (server, port, thread),
        deaf_client(port, *headers),
    ):
        state = server.server_state
        until(lambda: state.total_requests or state.tasks)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()


def test_a_reading_client_gets_the_whole_response_during_a_stop() -> None:
    with running(in_one_piece) as (server, port, thread), ExitStack() as stack:
        client = stack.enter_context(deaf_client(port, "connection: close"))
        until(lambda: server.server_state.total_requests)
        server.handle_exit(signal.SIGTERM, None)
        received = 0
        while piece := client.recv(MiB):
            received += len(piece)
        assert received > SIZE
        thread.join(TIMEOUT)
        assert not thread.is_alive()
